"""The time machine: its functions on the server, and the page in a real Chromium."""

from __future__ import annotations

import shutil
import time

import pytest

from ddpm_app.evaluation import snapshots
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components import time_machine
from tests.ui.steps import view


@pytest.fixture
def run(run_with_snapshots):
    return run_with_snapshots


@pytest.fixture
def studio(roots):
    return Studio(roots, device="cpu", precision="fp32")


def finished(run, seconds=60):
    task, until = time_machine.TASKS[str(run.folder)], time.monotonic() + seconds
    while task.running and time.monotonic() < until:
        time.sleep(0.01)
    assert not task.running
    return task


def test_draw_keep_and_export(run, studio, monkeypatch):
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


def test_the_server_accepts_any_query(run, studio):
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
        view(page, "Train")
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
