"""Create in a real Chromium: a grid, its pictures and settings, and back."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_app.studio import png_settings
from ddpm_app.studio.exports import request_from_settings
from tests.ui.steps import choose_model, error, generated, model_is, number

pytestmark = pytest.mark.browser


def test_generate_click_download_and_drop_back(page, app, tmp_path):
    studio, _ = app
    number(page, "Images", 4)
    number(page, "Evaluations", 6)
    page.click("#generate-start")
    generated(page)
    assert page.locator("#generate-grid .cell").count() == 4
    assert "4 images, 6 evaluations each" in page.inner_text("#generate-grid .status")
    page.click("#generate-grid .cell >> nth=2")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    file = tmp_path / "one.png"
    download.value.save_as(file)
    settings = png_settings.read(file)
    assert settings["checkpoint"] == "cifar10-random" and settings["evaluations"] == 6
    shown = np.asarray(Image.open(file))

    with page.expect_download() as download:
        page.click("#generate-grid .zip")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as z:
        assert len(z.namelist()) == 4 and z.read("00002.png") == file.read_bytes()

    # another model and other settings, then the PNG restores all of them
    choose_model(page, "mnist-random")
    number(page, "Evaluations", 9)
    page.set_input_files("#generate-drop input[type=file]", str(file))
    model_is(page, "cifar10-random")
    page.wait_for_function("s => [...document.querySelectorAll('input')].some(i => i.value === s)", arg=str(settings["seed"]))
    images = (
        "() => [...document.querySelectorAll('input[aria-label=\"number input for Images\"]')].some(i => i.offsetParent && i.value === '1')"
    )
    page.wait_for_function(images)
    model_is(page, "cifar10-random")
    page.click("#generate-start")
    page.wait_for_function("() => document.querySelectorAll('#generate-grid .cell:not([disabled])').length === 1")
    page.click("#generate-grid .cell")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    again = Path(download.value.path())
    assert png_settings.read(again) == settings
    assert np.abs(np.asarray(Image.open(again)).astype(int) - shown.astype(int)).max() <= 1

    # and the code it shows gives the same pixels
    page.get_by_text("Show the code").click()
    page.wait_for_function("() => /--seed/.test((document.querySelector('#generate-code')?.innerText ?? ''))")  # it unfolds first
    code = page.inner_text("#generate-code")
    assert f"seed={settings['seed']}" in code and f"--seed {settings['seed']}" in code


def test_steer_toward_a_class_and_keep_the_best(page, app, tmp_path):
    studio, _ = app
    page.locator("#steer > button").first.click()
    page.wait_for_selector("#steer-text")
    for label, value in (("Images", 3), ("Evaluations", 4), ("Classifier scale", 4), ("Candidates per image", 4)):
        number(page, label, value)
    page.click("#generate-start")
    page.wait_for_selector("#generate-grid .rejected:not([hidden])")
    generated(page)
    assert page.locator("#generate-grid .stage .cell").count() == 3 and page.locator("#generate-grid .rejected .cell").count() == 9
    scores = [float(t.split()[0]) for t in page.locator("#generate-grid .rejected .cell span").all_text_contents()]
    assert scores == sorted(scores, reverse=True) and "all 12 candidates" in page.inner_text("#generate-grid .status")
    page.click("#generate-grid .stage .cell >> nth=1")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    file = tmp_path / "kept.png"
    download.value.save_as(file)
    settings = png_settings.read(file)
    assert settings["classifier_scale"] == 4
    kept = np.asarray(Image.open(file)).astype(int)
    with page.expect_download() as download:
        page.click("#generate-grid .zip")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as z:
        assert len(z.namelist()) == 3 and z.read("00001.png") == file.read_bytes()
    again = studio.images(request_from_settings(settings, studio.checkpoint("cifar10-random").config.classes))[0][0]
    assert np.abs(again.astype(int) - kept).max() <= 1

    choose_model(page, "mnist-random")  # grey: no CLIP, and the page says so
    page.wait_for_function("() => (document.querySelector('#steer-note')?.innerText ?? '').includes('colour photos only')")
    page.set_input_files("#generate-drop input[type=file]", str(file))
    model_is(page, "cifar10-random")
    page.wait_for_function(
        "() => [...document.querySelectorAll('input[aria-label=\"number input for Candidates per image\"]')].some(i => i.value === '1')"
    )
    assert page.locator("input[aria-label='number input for Classifier scale']").first.input_value() == "4"


def test_all_classes_as_rows(page):
    choose_model(page, "mnist-random")
    page.locator("input[aria-label='Class']").locator("visible=true").first.click()
    page.get_by_role("option", name="all, one row each").click()
    number(page, "Images", 20)
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    generated(page)
    assert page.locator("#generate-grid .rowhead").all_inner_texts() == [str(k) for k in range(10)]
    assert page.locator("#generate-grid .cell").count() == 20


def test_a_hostile_png_changes_nothing(page, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("ddpm-studio", json.dumps({"version": 1, "checkpoint": "../../etc/passwd", "evaluations": 10**12}))
    Image.new("RGB", (8, 8)).save(tmp_path / "evil.png", pnginfo=info)
    page.set_input_files("#generate-drop input[type=file]", str(tmp_path / "evil.png"))
    error(page)
    model_is(page, "cifar10-random")
