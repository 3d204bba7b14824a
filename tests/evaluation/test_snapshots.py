"""A run's past: the same noise at each snapshot, with any average; the table from the evaluation engine; and the page's doors to it."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.checkpoints import checkpoint
from ddpm_app.evaluation import snapshots
from ddpm_app.images import render
from ddpm_app.studio.studio import Studio
from ddpm_app.training import posthoc_ema, runs
from ddpm_app.ui.components import time_machine


@pytest.fixture
def run(tmp_path, roots, monkeypatch):
    """Three snapshots of a random network that drifts; its own EMA, 0.05, 0.1 and raw weights differ."""
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "past"
    source = checkpoint.open_checkpoint(roots[0] / "mnist-random")
    weights = checkpoint.read_weights(source.path)
    for k, images in enumerate((1000, 3000, 10_000), 1):
        moved = {a: {n: v * (1 + 0.02 * k * a) for n, v in weights.items()} for a in (0.05, 0.1, 0.9)}
        place = folder / "snapshots" / f"{images:010d}"
        posthoc_ema.save_averages(place, images // 10, moved[0.05], moved[0.9], {0.05: moved[0.05], 0.1: moved[0.1]})
        checkpoint.save(place, source.config, moved[0.05])
    checkpoint.save(folder, source.config, moved[0.05])
    rows = [{"step": 10 * k, "images": 100 * k, "progress": k / 100, "loss": 1 / k, "seconds": k} for k in range(1, 101)]
    rows.insert(30, {"step": 300, "images": 3000, "validation_loss": 0.25})
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return runs.Run(folder)


@pytest.fixture
def studio(roots):
    return Studio(roots, device="cpu", precision="fp32")


def test_a_moment_is_what_the_log_says(run):
    m = snapshots.moment(run, 3000)
    assert (m.share, m.validation) == (0.3, 0.25) and m.loss == pytest.approx(sum(1 / k for k in range(28, 33)) / 5)
    assert snapshots.moment(runs.Run(run.folder / "nothing"), 5) == snapshots.Moment(5)
    assert snapshots.at_shares(run) == {s: p for s, p in zip((0.1, 0.3, 1.0), run.snapshots())}


def test_the_same_noise_at_every_snapshot(run, studio, monkeypatch):
    monkeypatch.setitem(snapshots.SETTINGS, "evaluations", 2)
    told = list(snapshots.draw(studio, run))
    assert told[0] == (0, 6) and told[-1] == (1, 1) and told == sorted(told[:-1]) + told[-1:]
    places = snapshots.frames(run)
    assert list(places) == [1000, 3000, 10_000]
    request, labels = snapshots.grid_request(run.snapshots()[1])
    assert labels.tolist() == np.arange(10).repeat(4).tolist() and request.seed == 0
    *_, frame = studio.sample(request, labels=labels)
    assert np.array_equal(np.asarray(Image.open(places[3000])), np.asarray(render.grid(torch.from_numpy(frame.x), 4)))
    stamps = [p.stat().st_mtime_ns for p in places.values()]
    assert list(snapshots.draw(studio, run)) == [(1, 1)] and [p.stat().st_mtime_ns for p in places.values()] == stamps, "nothing twice"

    list(snapshots.draw(studio, run, posthoc_ema.RAW, ("0000003000",)))
    list(snapshots.draw(studio, run, 0.08, ("0000010000",)))
    assert snapshots.sets(run) == ["own", "raw", "ema-0.08"] and list(snapshots.frames(run, 0.08)) == [10_000]
    pictures = [
        np.asarray(Image.open(snapshots.frames(run, w)[k])) for w, k in (("own", 3000), ("raw", 3000), ("own", 10_000), (0.08, 10_000))
    ]
    assert (pictures[0] != pictures[1]).any() and (pictures[2] != pictures[3]).any()
    assert pictures[0].shape == pictures[1].shape

    data = snapshots.animation(run, "webp")
    with Image.open(__import__("io").BytesIO(data)) as moving:
        assert moving.n_frames == 3
    with pytest.raises(ValueError, match="two are needed"):
        snapshots.animation(run, "gif", 0.08)


def test_training_grids_belong_to_the_own_set(run, monkeypatch):
    samples = run.folder / "samples"
    samples.mkdir()
    for images, side in ((500, 20), (6000, 30), (9000, 30)):
        Image.new("RGB", (side, 40)).save(samples / f"{images:010d}.png")
    (samples / "0000009500.png").write_bytes(b"cut")
    assert list(snapshots.frames(run)) == [6000, 9000], "another size is an older program's, one cut short is none"


def test_the_table_is_the_engines(run, studio, monkeypatch):
    """Random weights of data that nobody has a classifier for: a row a share, each refusal once, in its own words."""
    monkeypatch.setitem(snapshots.SETTINGS, "evaluations", 1)
    events = list(snapshots.fill(studio, run, n=4))
    assert events[-1]["done"] == events[-1]["total"] == 3 and any("10%" in e["what"] for e in events)
    rows = snapshots.table(run)
    assert [r["share"] for r in rows] == [0.1, 0.3, 1.0] and [r["images"] for r in rows] == [1000, 3000, 10_000]
    assert all("classifier" in r["refused"][0] for r in rows) and snapshots.short(rows[0])["agreement"] is None
    list(snapshots.fill(studio, run, n=4))
    assert len(snapshots.table(run)) == 3, "a share has one row"
    log = run.folder / "log.jsonl"
    before = log.read_text()
    near = [json.loads(line) for line in before.splitlines()]
    # snapshots seldom lie on a share exactly
    log.write_text("".join(json.dumps({**r, "progress": min(r.get("progress", 0) * 1.1, 1)}) + "\n" for r in near))
    list(snapshots.fill(studio, run, n=6))
    assert [(r["share"], r["n"]) for r in snapshots.table(run)] == [(0.1, 6), (0.3, 6), (1.0, 6)]
    log.write_text("".join(json.dumps({**r, "progress": r.get("progress", 0) / 2}) + "\n" for r in near))  # a budget twice as long
    assert [r["share"] for r in snapshots.table(run)] == [0.1], "what was 30 % and 100 % is about other times now"
    log.write_text(before)
    (run.folder / "history" / "table.json").write_text("[{")
    assert snapshots.table(run) == []


@pytest.mark.parametrize("weights", ["../x", "ema", 0.5, -1, float("nan"), None, "ema-0.08"])
def test_weights_have_few_names(run, studio, weights):
    with pytest.raises(ValueError, match="EMA length"):
        next(snapshots.draw(studio, run, weights))


def test_unknown_snapshots_are_named(run, studio, tmp_path):
    with pytest.raises(ValueError, match="0000001000"):
        next(snapshots.draw(studio, run, "own", ("../..",)))
    with pytest.raises(ValueError, match="no snapshots"):
        next(snapshots.draw(studio, runs.Run(tmp_path), "own"))


# -- what the browser calls -------------------------------------------------------------------------------------------------


def finished(run, seconds=60):
    task, until = time_machine.TASKS[str(run.folder)], time.monotonic() + seconds
    while task.running and time.monotonic() < until:
        time.sleep(0.01)
    assert not task.running
    return task


def test_the_page_draws_keeps_and_exports(run, studio, monkeypatch):
    monkeypatch.setitem(snapshots.SETTINGS, "evaluations", 1)
    assert time_machine.act(studio, {"run": "past", "do": "draw", "weights": 0.08}) == {"ok": ""}
    assert finished(run).error == ""
    seen = time_machine.look({"run": "past", "want": ["ema-0.08"], "have": {"ema-0.08": [1000]}})
    assert seen["sets"]["ema-0.08"] == [1000, 3000, 10_000] and set(seen["pictures"]["ema-0.08"]) == {"3000", "10000"}
    assert seen["lengths"] == [0.05, 0.1] and seen["moments"]["3000"]["validation"] == 0.25 and not seen["task"]["live"]
    made = time_machine.act(studio, {"run": "past", "do": "export", "weights": 0.08, "kind": "gif"})
    assert made["type"] == "image/gif" and len(made["data"]) > 100
    assert "0.08" in time_machine.act(studio, {"run": "past", "do": "keep", "weights": 0.08})["ok"]
    assert "0.08" in time_machine.look({"run": "past"})["kept"]


def test_work_can_be_stopped(run, studio, monkeypatch):
    def endless():
        while True:
            yield 1, 2

    time_machine.begin(run, "sampling", endless())
    refused = time_machine.act(studio, {"run": "past", "do": "table"})
    assert "busy" in refused["error"] and refused["busy"] is True
    assert time_machine.look({"run": "past"})["task"]["share"] == 0.5
    assert time_machine.act(studio, {"run": "past", "do": "stop"}) == {"ok": ""}
    finished(run)


def test_the_server_takes_anything(run, studio):
    for query in (None, 7, [], {}, {"run": ["past"]}, {"run": "../past"}, {"run": "past", "do": "delete"}, {"run": "past", "do": []}):
        assert set(time_machine.act(studio, query)) == {"error"}
    bad = [{"weights": {}}, {"weights": True}, {"snapshot": 3}, {"kind": [], "do": "export"}, {"snapshot": "../x", "do": "keep"}]
    for query in bad:
        assert set(time_machine.act(studio, {"run": "past", "do": "draw", **query})) == {"error"}
    for query in (None, 3, {"run": 3}, {"run": "nothing"}):
        assert set(time_machine.look(query)) == {"error"}
    for query in ({"want": 3, "have": 4}, {"want": [{}, "own", "x", "../.."], "have": {"own": 5}}):
        assert time_machine.look({"run": "past", **query})["run"] == "past"
    for p in run.folder.glob("snapshots/*/profiles.json"):
        p.unlink()
    assert "no stored averages" in time_machine.act(studio, {"run": "past", "do": "draw", "weights": "raw"})["error"]
    shutil.rmtree(run.folder)


# -- in a real browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_time_machine_on_the_page(run, studio, browser, monkeypatch):
    from ddpm_app.ui import build, launch_options

    monkeypatch.setitem(snapshots.SETTINGS, "evaluations", 1)
    page_ = build(studio)
    _, url, _ = page_.launch(prevent_thread_lock=True, server_port=None, **launch_options())
    context = browser.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    page, trouble = context.new_page(), []
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.set_default_timeout(60_000)
    try:
        page.goto(url)
        page.get_by_role("tab", name="Train", exact=True).click()
        page.wait_for_selector("#train-time [data-t=all]:enabled")
        page.click("#train-time [data-t=all]")
        page.wait_for_selector("#train-time .a img:visible")
        page.wait_for_selector("#train-time [data-x=webp]:enabled")
        page.fill("#train-time .when", "1")
        assert "3 000" in page.inner_text("#train-time .facts")
        prompt = time_machine.look
        monkeypatch.setattr(time_machine, "look", lambda query: (prompt(query), time.sleep(0.8))[0])  # older than what was asked meanwhile
        page.select_option("#train-time .weights", "any")  # an EMA that nobody tracked, drawn at once
        page.wait_for_function("() => (document.querySelector('#train-time .a img')?.alt ?? '').includes('EMA 0.08')")
        page.select_option("#train-time .beside", "own")
        page.wait_for_selector("#train-time .b img:visible")
        page.wait_for_selector("#train-time [data-t=keep]:enabled")
        page.click("#train-time [data-t=keep]")
        assert "Really?" in page.inner_text("#train-time [data-t=keep]") and "0.08" not in page.inner_text("#train-time .ema")  # it asks
        page.click("#train-time [data-t=keep]")
        page.wait_for_function("() => (document.querySelector('#train-time .ema')?.textContent ?? '').includes('0.08')")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    finally:
        context.close()
        page_.close()
    assert trouble == []
