"""A run's past: the same noise at each snapshot, with any average; the table from the evaluation engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.evaluation import snapshots
from ddpm_app.images import render
from ddpm_app.studio.studio import Studio
from ddpm_app.training import posthoc_ema, runs


@pytest.fixture
def run(run_with_snapshots):
    return run_with_snapshots


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


def test_the_table_holds_the_numbers_and_refusals_of_evaluate(run, studio, monkeypatch):
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
def test_unknown_weights_are_refused(run, studio, weights):
    with pytest.raises(ValueError, match="EMA length"):
        next(snapshots.draw(studio, run, weights))


def test_unknown_snapshots_are_named(run, studio, tmp_path):
    with pytest.raises(ValueError, match="0000001000"):
        next(snapshots.draw(studio, run, "own", ("../..",)))
    with pytest.raises(ValueError, match="no snapshots"):
        next(snapshots.draw(studio, runs.Run(tmp_path), "own"))
