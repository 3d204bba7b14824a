"""Lab, Bits in a real Chromium: bits of an upload, scrubbing, likelihood, stop."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.diffusion.coding import curve
from ddpm_app.studio import compression
from tests.ui.steps import error, number, view

pytestmark = pytest.mark.browser


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png", torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def encoded(page):
    page.wait_for_selector("#coding-view .exports:not([hidden])")
    page.wait_for_selector("#coding-start:not([disabled])")


def test_progressive_coding_of_an_upload(page, app, picture):
    file, image = picture
    view(page, "Bits")
    assert page.inner_text("#coding-view .empty strong") == "Nothing encoded yet"
    page.click("#coding-start")  # no picture yet: a sentence, and the page goes on
    assert "picture" in error(page)
    page.wait_for_selector("#coding-start:not([disabled])")
    page.set_input_files("#coding-picture input[type=file]", str(file))
    page.wait_for_selector("#coding-picture img")
    number(page, "Noise levels visited", 12)
    page.check("#coding-flow input")
    page.click("#coding-start")
    page.wait_for_function("() => /probability flow, 4 draws/.test((document.querySelector('#coding-view .sum')?.textContent ?? ''))")
    encoded(page)
    want = curve([list(compression.code(app[0], compression.CodeRequest("cifar10-random", states=12), image))])
    shown = page.locator("#coding-view .sum b").all_inner_texts()
    assert [float(v) for v in shown[:4]] == pytest.approx([want.total, want.L_T, want.L_mid, want.L_0], abs=2e-3)
    assert "±" in shown[4]

    scrub = page.locator("#coding-view .scrub")
    assert scrub.get_attribute("max") == "13"
    pixels = "k => { const c = document.querySelector('#coding-view .p' + k); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    scrub.fill("13")
    assert page.evaluate(pixels, 0) == page.evaluate(pixels, 1)  # all bits: the exact pixels
    assert "exact pixels" in page.inner_text("#coding-view .decoded")
    scrub.fill("4")
    assert page.evaluate(pixels, 0) != page.evaluate(pixels, 1)
    bits = float(page.locator("#coding-view .now b").first.inner_text().replace(",", ""))
    assert bits == pytest.approx(want.rate[4] * want.dims, rel=0.02)
    page.fill("#coding-view .k", str(int(want.rate[-2] * want.dims) + 1))  # the first so many bits: x_1 is known, the pixels are not
    page.wait_for_function("() => (document.querySelector('#coding-view .scrub')?.value ?? '') === '12'")
    page.hover("#coding-view .c-rd")
    assert "bits/dim" in page.inner_text("#coding-view .charts figure:nth-child(3) .tip")
    with page.expect_download() as download:
        page.click("#coding-view [data-kind=csv]")
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 15 and rows[0].startswith("t,sigma,bits")
    with page.expect_download() as download:
        page.click("#coding-view [data-kind=gif]")
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).n_frames == 14


def test_stop_keeps_the_states_that_have_arrived(page, monkeypatch):
    real = compression.code

    def slow(*args):
        for state in real(*args):
            time.sleep(0.02)  # 20 s in all: the run is not over before the click on Stop
            yield state

    monkeypatch.setattr(compression, "code", slow)
    view(page, "Bits")
    page.locator("#coding-kind").get_by_text("A sample of the model").click()
    number(page, "Noise levels visited", 999)
    page.click("#coding-start")
    page.wait_for_selector("#coding-view .cv.has")
    page.click("#coding-stop")
    page.wait_for_selector("#coding-start:not([disabled])")
    page.wait_for_function("() => (document.querySelector('#coding-view .status')?.textContent ?? '').startsWith('Stopped after')")
    number(page, "Noise levels visited", 10)
    page.click("#coding-start")
    encoded(page)
