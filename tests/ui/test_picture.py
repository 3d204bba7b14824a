"""Your picture in a real Chromium: the forward process of an upload, denoising from there, and bad files."""

import numpy as np
import pytest
from PIL import Image

from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.studio.forward import forward_process
from tests.ui.steps import error, generated, number, state, view

pytestmark = pytest.mark.browser


def test_forward_shows_the_same_pixels_as_the_schedule_gives(page, tmp_path, app):
    studio, _ = app
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    view(page, "Your picture")
    page.set_input_files("#forward-picture input[type=file]", str(tmp_path / "p.png"))
    page.wait_for_selector("#forward-view .stage.has")
    schedule = make_schedule(**studio.checkpoint("cifar10-random").config.schedule)
    for t in (0, 250, 777):
        number(page, "t", t, "#forward-t")
        page.wait_for_function(
            "t => (document.querySelector('#forward-view .main figcaption')?.textContent ?? '').includes(`t = ${t} of`)", arg=t
        )
        shown = page.evaluate(
            "() => { const c = document.querySelector('#forward-view .xt'); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
        )
        shown = np.array(shown, np.uint8).reshape(16, 16, 4)[..., :3]
        want = forward_process(picture.transpose(2, 0, 1), schedule, [t], seed=0)[0][0].transpose(1, 2, 0)
        assert np.abs(shown.astype(int) - want.astype(int)).max() <= 1, t  # alpha_bar travels with five decimals
    assert page.locator("#forward-view .strip canvas").count() == 10 and page.locator("#forward-view .three canvas").count() == 3
    page.click("#forward-view .strip button >> nth=3")
    page.wait_for_function("() => (document.querySelector('#forward-t input[type=number]')?.value ?? '') === '333'")
    number(page, "Evaluations", 5)
    page.click("#forward-start")
    page.wait_for_selector("#forward-player .exports:not([hidden])")
    assert state(page, "forward-player", "__player")["have"] == 6


@pytest.mark.parametrize("content, says", [(b"this is no picture", "picture"), (b"", "empty")])
def test_a_bad_upload_shows_a_sentence_and_the_page_still_works(page, tmp_path, content, says):
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    view(page, "Your picture")
    page.set_input_files("#forward-picture input[type=file]", str(file))
    assert says in error(page).lower()
    view(page, "Create")
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    generated(page)
