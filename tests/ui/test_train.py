"""The Train tab in a real Chromium: start a run, watch it, stop it, reload, find it again, fork it, delete it."""

import io
import os
import shutil
import subprocess
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddpm_app.images.datasets import load_data
from ddpm_app.studio.studio import Studio
from ddpm_app.training import runs
from ddpm_app.ui.components import run_view
from tests.ui.conftest import watch
from tests.ui.steps import error, view

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("train-tab") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_RUNS", str(root))
        yield root
        for run in runs.runs():
            if run.status()[0] in runs.LIVE:
                os.kill(run.job["pid"], 9)


@pytest.fixture(scope="module")
def url(roots, runs_root):
    from ddpm_app.ui import build, launch_options

    page = build(Studio([*roots, runs_root], device="cpu", precision="fp32"))
    _, url, _ = page.launch(prevent_thread_lock=True, server_port=None, **launch_options())
    yield url
    page.close()


@pytest.fixture
def page(browser, url):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    trouble = watch(page, url)
    page.set_default_timeout(60_000)
    open_tab(page, url)
    yield page
    context.close()
    assert trouble == []


def open_tab(page, url):
    page.goto(url)
    view(page, "Train")
    page.wait_for_selector("#train-view .tv")


def chip(page, status):
    page.wait_for_function("s => document.querySelector('#train-view .head .chip')?.textContent === s", arg=status)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "dots.npz"
    rng = np.random.default_rng(0)
    np.savez(file, arr_0=rng.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8), arr_1=np.arange(40) % 2)
    return str(file)


def choose(page, box, text):
    page.click(f"{box} input")
    page.get_by_role("option", name=text).click()


def test_a_run_from_the_page(page, url, data, runs_root):
    assert page.locator("#train-view .empty strong").inner_text() == "No run yet"
    page.wait_for_function("() => (document.querySelector('#train-command')?.innerText ?? '').includes('--data')")
    choose(page, "#train-data", "Own images")
    page.wait_for_selector("#train-path")
    page.click("#train-start")  # no folder yet: a sentence, and the page goes on
    assert "ZIP" in error(page)
    page.fill("#train-path textarea, #train-path input", data)
    page.fill("#train-minutes input", "60")
    page.get_by_role("button", name="Advanced").locator("visible=true").click()
    page.fill("#train-batch input", "8")
    page.fill("#train-validations input", "7")
    page.fill("#train-name textarea, #train-name input", "dots")
    page.wait_for_function("() => /--batch 8/.test((document.querySelector('#train-command')?.innerText ?? ''))")
    page.wait_for_function("() => /--validations 7/.test((document.querySelector('#train-command')?.innerText ?? ''))")
    begun = time.monotonic()
    page.click("#train-start")
    chip(page, "running")
    page.wait_for_function("() => (document.querySelector('#train-view .chart .smoothed')?.getAttribute('d') || '').length > 20")
    assert time.monotonic() - begun < 60
    run = runs.find("dots")
    assert run.job["argv"][-2:] == ["--validations", "7"] and run.settings["batch"] == 8 and run.settings["minutes"] == 60
    assert page.locator("#train-view .tile").count() == 9 and "--out" in page.inner_text("#train-view .command code")

    before = page.evaluate("() => { window.node = document.querySelector('#train-view .chart .smoothed'); return node.getAttribute('d') }")
    page.wait_for_function("d => document.querySelector('#train-view .chart .smoothed').getAttribute('d') !== d", arg=before)
    assert page.evaluate("() => window.node.isConnected")  # updated in place: no flicker
    page.hover("#train-view .chart")
    assert "images" in page.inner_text("#train-view .tip")
    page.check("#train-view .logy")

    open_tab(page, url)  # a reload finds it again
    page.wait_for_selector("#train-view .item[data-run=dots].on")
    chip(page, "running")
    page.click("#train-view [data-do=pause]")
    chip(page, "paused")
    page.click("#train-view [data-do=resume]")
    chip(page, "running")
    page.click("#train-view [data-do=stop]")
    chip(page, "stopped")
    assert run.status()[0] == "stopped" and page.is_disabled("#train-view [data-do=stop]")


def zoomed_by_a_drag_until_shown_whole_again(page, folder):
    ticks = "() => [...document.querySelectorAll('#train-view .chart text[text-anchor=middle]')].map(t => t.textContent)"
    level = "() => [...document.querySelectorAll('#train-view .chart text[text-anchor=end]')].map(t => +t.textContent).filter(v => v < 1.5)"
    whole, levels = page.evaluate(ticks), page.evaluate(level)
    page.locator("#train-view .chart").scroll_into_view_if_needed()
    box = page.locator("#train-view .chart").bounding_box()

    def drag(a, b):
        page.mouse.move(box["x"] + a * box["width"], box["y"] + 90)
        page.mouse.down()
        page.mouse.move(box["x"] + b * box["width"], box["y"] + 120, steps=4)
        page.mouse.up()

    drag(0.4, 0.41)  # a click, no stretch
    assert page.evaluate(ticks) == whole and page.is_hidden("#train-view .unzoom")
    drag(0.9, 0.6)
    page.wait_for_selector("#train-view .unzoom")
    near = page.evaluate(ticks)
    assert near != whole and "0" not in near and page.evaluate(level) != levels  # the loss's own range there, too
    page.hover("#train-view .chart")
    images = int(page.inner_text("#train-view .tip").split(" images")[0].replace(" k", "000"))
    assert 30_000 < images < 55_000
    with (folder / "log.jsonl").open("a") as log:
        log.write('ges": 70000, "seconds": 901, "progress": 1, "loss": 0.2, "lr": 1e-4}\n')
    page.wait_for_function("() => (document.querySelector('#train-view .tile b')?.textContent ?? '') === '70 k'")
    assert page.evaluate(ticks) == near  # news do not move it
    page.check("#train-view .logx")
    assert page.is_visible("#train-view .unzoom")
    page.uncheck("#train-view .logx")
    page.click("#train-view .unzoom")
    drag(0.5, 0.0)  # past the axis: from no image at all, which has no logarithm
    page.check("#train-view .logx")
    assert page.is_visible("#train-view .unzoom") and page.evaluate(ticks)
    page.uncheck("#train-view .logx")
    page.dblclick("#train-view .chart")
    assert "0" in page.evaluate(ticks) and page.is_hidden("#train-view .unzoom")


def test_another_browser_shows_the_same_runs_and_compares_them(browser, url, runs_root):
    for name, at in (("one", 0.9), ("two", 0.5)):
        folder = runs_root / name
        folder.mkdir(parents=True)
        rows = [
            f'{{"step": {k}, "images": {64 * k}, "seconds": {k}, "progress": {k / 900}, "loss": {at + 1 / k}, "lr": 1e-4}}'
            for k in range(1, 900)
        ]
        (folder / "log.jsonl").write_text("\n".join(rows) + '\n{"step": 900, "ima')
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    open_tab(page, url)
    page.click("#train-view .item[data-run=one] button")
    page.check("#train-view .item[data-run=two] input")
    page.wait_for_function("() => document.querySelectorAll('#train-view .chart .smoothed').length === 2")
    assert page.locator("#train-view .legend span").all_inner_texts() == ["one", "two"]
    points = page.evaluate("() => document.querySelector('#train-view .chart .smoothed').getAttribute('d').split('L').length")
    assert 200 < points <= 400
    zoomed_by_a_drag_until_shown_whole_again(page, runs_root / "one")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert all(link.is_visible() for link in page.locator(".bottom > a").all())
    page.click("#train-view .item[data-run=two] button")
    page.wait_for_function("() => (document.querySelector('#train-view h3')?.textContent ?? '') === 'two'")
    page.click("#train-view [data-do=delete]")
    assert (runs_root / "two").exists()  # it asks first
    page.click("#train-view [data-do=delete]")
    page.wait_for_selector("#train-view .item[data-run=two]", state="detached")
    assert not (runs_root / "two").exists() and list((runs_root / ".trash").glob("two-*"))
    context.close()


def test_a_bad_zip_clears_the_folder_and_a_change_clears_the_prediction(page, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as z:
        for k in range(4):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(picture, "PNG")
            z.writestr(f"{'ab'[k % 2]}/{k}.png", picture.getvalue())
    (tmp_path / "broken.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:300])
    command = "() => (document.querySelector('#train-command')?.innerText ?? '')"
    choose(page, "#train-data", "Own images")
    page.wait_for_selector("#train-zip input[type=file]", state="attached")
    page.set_input_files("#train-zip input[type=file]", tmp_path / "good.zip")
    page.wait_for_function(f"() => ({command})().includes('.data/good-')")
    assert "4 images in 2 classes" in page.inner_text("#train-plan")
    page.click("#train-zip button[aria-label=Clear], #train-zip [aria-label='Remove this file'], #train-zip [title=Clear]")
    page.wait_for_function(f"() => !({command})().includes('.data/good-')")
    page.set_input_files("#train-zip input[type=file]", tmp_path / "broken.zip")
    assert "damaged" in error(page)
    assert page.evaluate(command).splitlines()[-1].startswith("# no folder is given") and "good" not in page.inner_text("#train-plan")

    told = '{"device": "CPU", "images_per_s": 9, "batch": 32, "minutes": 30, "images": 9, "steps": 9, "ema": 0.02, "validations": 9, "lr": 0.001, "warmup": 9}'
    done = subprocess.CompletedProcess([], 0, told, "")
    monkeypatch.setattr("ddpm_app.ui.views.train.subprocess.run", lambda *a, **kw: done)
    choose(page, "#train-data", "Digits")
    page.click("#train-probe")
    page.wait_for_function("() => (document.querySelector('#train-plan')?.innerText ?? '').includes('9 images/s at batch 32')")
    page.fill("#train-minutes input", "7")
    page.wait_for_function("() => (document.querySelector('#train-plan')?.innerText ?? '').startsWith('Changed since it was measured')")


def test_a_fork_fills_the_form(page, runs_root, roots):
    folder = runs_root / "parent"
    shutil.copytree(roots[0] / "mnist-random", folder / "snapshots" / "0000000640")
    (folder / "log.jsonl").write_text('{"step": 9, "images": 640, "seconds": 9, "progress": 1, "loss": 0.4}\n')
    (folder / "job.json").write_text('{"settings": {"data": "cifar10", "row": "edm", "batch": 96, "minutes": 7.0}, "created": 1}')
    page.click("#train-view .item[data-run=parent] button")
    page.click("#train-view .take")
    for flag in ("--prediction-type edm", "--batch 96", "--init"):
        page.wait_for_function("f => (document.querySelector('#train-command')?.innerText ?? '').includes(f)", arg=flag)
    assert "0000000640" in page.inner_text("#train-command").replace("\n", "")


def test_a_theme_change_keeps_the_form_and_the_time_machine_goes_with_the_last_run(page, url, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path))
    folder = tmp_path / "only"
    (folder / "samples").mkdir(parents=True)
    Image.new("L", (30, 30)).save(folder / "samples" / "0000000640.png")
    (folder / "log.jsonl").write_text('{"step": 10, "images": 640, "seconds": 9, "progress": 1, "loss": 0.5, "lr": 1e-4}\n')
    page.click("#train-view .item[data-run=only] button")
    page.wait_for_selector("#train-time .tm", state="visible")
    assert page.locator("#train-time .refused").inner_text().startswith("Empty") and page.locator("#train-time table").is_hidden()
    page.fill("#train-minutes input", "7")
    was = page.evaluate("() => document.body.classList.contains('dark')")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("() => document.body.classList.contains('dark')") != was and "__theme=" in page.url
    assert page.input_value("#train-minutes input") == "7"
    page.click("#train-view [data-do=delete]")
    page.click("#train-view [data-do=delete]")
    page.wait_for_selector("#train-view .empty", state="visible")
    page.wait_for_selector("#train-time .tm", state="hidden")


def test_a_lost_server_shows_a_sentence(browser, url, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "log.jsonl").write_text('{"step": 10, "images": 640, "seconds": 9, "progress": 0.5, "loss": 0.5}\n')
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.set_default_timeout(60_000)
    open_tab(page, url)
    page.wait_for_selector("#train-view .item[data-run=only]")
    page.route("**/component_server**", lambda route: route.abort())
    page.click("#train-view [data-do=delete]")
    page.click("#train-view [data-do=delete]")
    page.wait_for_function("() => (document.querySelector('#train-view .trouble')?.textContent ?? '').includes('does not answer')")
    assert errors == [] and (tmp_path / "only").exists()
    context.close()


def test_the_server_accepts_any_query_from_the_browser(runs_root):
    (runs_root / "x").mkdir(parents=True)
    (runs_root / "x" / "log.jsonl").write_text('{"step": 1}\n{"loss": "a", "step": 2}\nnull\n[1]\n')
    for query in (None, 7, [], {"open": 3}, {"open": ["x", 5, {}], "have": [], "grids": "x"}, {"open": ["../.."] * 99}):
        assert "x" in [r["name"] for r in run_view.train_poll(query)["runs"]]
        assert "error" in run_view.train_act(query)
    for query in ({"do": "delete", "run": "../x"}, {"do": "status", "run": "x"}, {"do": "stop", "run": ["x"]}, {"do": "stop", "run": "x"}):
        assert set(run_view.train_act(query)) == {"error"}
    shutil.rmtree(runs_root / "x")


def test_skipped_images_are_listed(runs_root, tmp_path, capsys):
    (tmp_path / "cats").mkdir()
    for k in range(20):
        Image.new("RGB", (9, 9), (k, 0, 0)).save(tmp_path / "cats" / f"{k:02d}.png")
    for k, content in enumerate((b"", b"no picture", (tmp_path / "cats" / "00.png").read_bytes()[:40])):
        (tmp_path / "cats" / f"broken-{k}.png").write_bytes(content)
    assert len(load_data(str(tmp_path), image_size=8)) == 20
    folder = runs_root / "cats"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"step": 1, "images": 8, "loss": 0.5}\n')
    (folder / "output.txt").write_text(capsys.readouterr().out + "  1.0%  step 1\n")  # what its process printed
    listed = run_view.train_poll({"open": ["cats"]})["open"]["cats"]["skipped"]
    assert len(listed) == 3 and all(f"broken-{k}.png: " in line for k, line in enumerate(listed))
    shutil.rmtree(folder)


def test_long_curves_are_thinned_to_their_mean():
    points = run_view.thin_mean(list(range(10_000)), [k % 2 for k in range(10_000)])
    assert len(points) <= 400 and all(abs(y - 0.5) < 0.05 for _, y in points)
    assert run_view.thin_mean([], []) == []
