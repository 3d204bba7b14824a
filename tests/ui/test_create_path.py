"""Create in a real Chromium: interpolation between two seeds and between two pictures."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.studio import interpolate
from tests.ui.steps import number

pytestmark = pytest.mark.browser


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png", torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def open_path(page):
    page.get_by_text("From one picture to another").click()
    page.wait_for_selector("#path-start")


def test_interpolation_between_two_seeds_and_between_two_pictures(page, app, picture):
    open_path(page)
    page.locator("#path-way").get_by_text("two seeds").click()
    page.wait_for_selector("#path-seed-b")
    page.locator("#create-path").get_by_role("button", name="Advanced").click()
    for _ in range(2):  # a part opened just now may set its fields' own values once more
        page.wait_for_timeout(700)
        number(page, "Frames", 5, "#create-path")
        number(page, "Evaluations", 5, "#create-path")
    page.click("#path-start")
    page.wait_for_selector("#path-player .exports:not([hidden])")
    page.wait_for_function("() => document.querySelectorAll('#path-strip .cell').length === 5")
    with page.expect_download() as download:
        page.click("#path-player [data-kind=webp]")
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).n_frames == 5
    end = list(interpolate.interpolate(app[0], interpolate.PathRequest("cifar10-random", frames=5, evaluations=5)))[-1]
    cell = "() => [...document.querySelector('#path-strip .cell:nth-child(3) canvas').getContext('2d').getImageData(0, 0, 16, 16).data]"
    wanted = end.images[2].transpose(1, 2, 0).astype(int)

    def apart() -> int:
        return int(np.abs(np.array(page.evaluate(cell), int).reshape(16, 16, 4)[..., :3] - wanted).max())

    deadline = time.monotonic() + 30  # the strip may still show a picture on its way
    while apart() > 1 and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert apart() <= 1

    page.locator("#path-way").get_by_text("through the probability flow").click()
    page.set_input_files("#path-a-picture input[type=file]", str(picture[0]))
    page.wait_for_selector("#path-a-picture img")
    page.locator("#path-b-kind").get_by_text("A sample of the model").click()
    page.wait_for_selector("#path-start:not([disabled])")
    page.click("#path-start")
    page.wait_for_function("() => /come back to/.test((document.querySelector('#path-strip .status')?.textContent ?? ''))")
    assert page.locator("#path-strip .cell.end").count() == 2 and page.locator("#path-strip .cell").count() == 7


@pytest.mark.parametrize("width", [1440, 390])
def test_it_is_not_wider_than_the_page(browser, app, width):
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(f"{app[1]}?v=create&__theme=dark")
    page.wait_for_selector("#generate-start")
    open_path(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    context.close()
