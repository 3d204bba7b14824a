"""The Encode tab in a real Chromium: bits of an upload, scrubbing, likelihood, stop; between two seeds and two pictures."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.checkpoints import checkpoint as checkpoints
from ddpm_app.diffusion.coding import curve
from ddpm_app.images import datasets
from ddpm_app.paths import PROJECT
from ddpm_app.studio import compression, interpolate
from ddpm_app.ui.forms import image_source
from ddpm_app.ui.tabs import encode_bits
from tests.ui.test_page import number, tab

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
    tab(page, "Encode")
    assert page.inner_text("#coding-view .empty strong") == "Nothing encoded yet"
    page.click("#coding-start")  # no picture yet: a sentence, and the page goes on
    assert "picture" in page.wait_for_selector("[data-testid=toast-body]").inner_text()
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


def test_stop_keeps_the_states_that_have_arrived(page):
    tab(page, "Encode")
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


def test_interpolation_between_two_seeds_and_between_two_pictures(page, app, picture):
    tab(page, "Encode")
    tab(page, "Interpolation")
    page.locator("#path-way").get_by_text("two seeds").click()
    page.wait_for_selector("#path-seed-b")
    page.get_by_role("button", name="Advanced").locator("visible=true").click()
    for _ in range(2):  # a part opened just now may set its fields' own values once more
        page.wait_for_timeout(700)
        number(page, "Frames", 5)
        number(page, "Evaluations", 5)
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
def test_the_encode_tab_is_not_wider_than_the_page(browser, app, width):
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(f"{app[1]}?__theme=dark")
    page.wait_for_selector("#generate-start")
    tab(page, "Encode")
    for name in ("Interpolation", "Progressive coding"):
        tab(page, name)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    context.close()


def test_test_images_are_offered_only_if_they_are_on_this_machine(tmp_path, monkeypatch):
    checkpoint = checkpoints.open_checkpoint(PROJECT / "checkpoints" / "mnist")
    for name in datasets.KNOWN:  # every known name is accepted
        assert datasets.local_place(name) is None or len(datasets.local_data(name)) > 0
    monkeypatch.setattr(datasets.paths, "data_roots", lambda: [tmp_path])
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    assert image_source.source_choices(checkpoint) == [image_source.FILE, image_source.SAMPLE] and datasets.local_data("mnist") is None
    np.savez(tmp_path / "mnist-test.npz", arr_0=np.zeros((3, 28, 28, 1), np.uint8), arr_1=np.array([7, 2, 1]))
    assert image_source.TEST in image_source.source_choices(checkpoint) and datasets.local_data("mnist").labels.tolist() == [7, 2, 1]
    assert datasets.local_place("my-folder") is None and image_source.source_choices(None) == [image_source.FILE, image_source.SAMPLE]


def test_the_commands_on_the_page_are_accepted_by_the_cli(capsys):
    import shlex

    from ddpm_app.cli.main import main

    request = compression.CodeRequest("no-such-model", "none", 12, "small", "log-snr", 3)
    words = shlex.split(encode_bits.command_of(request, "--test 4", 2))
    assert words[:3] == ["python", "-m", "ddpm_app"] and {"--n", "--variance", "--levels", "--seed", "--states"} <= set(words)
    path = interpolate.PathRequest("no such model", "ode", "cat", "none", frames=5, seed=7)
    more = shlex.split(path.as_command("--test 3 4"))
    assert {"--first", "--second", "--test", "--seed", "no such model"} <= set(more)
    for command in (words, more):
        assert main(command[3:]) == 2  # the flags are accepted; only the model is missing
    assert "no such model" in capsys.readouterr().err
