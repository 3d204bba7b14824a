"""Lab, Models in a real Chromium: cards, and checkpoints that are loaded or refused."""

import pytest

from tests.ui.steps import choose_model, error, view

pytestmark = pytest.mark.browser


def test_models_shows_cards_and_refuses_pickles(page, tmp_path, roots):
    from tests.conftest import make_checkpoint

    view(page, "Models")
    page.wait_for_selector("#models-card h3")
    assert "cifar10-random" in page.inner_text("#models-card") and "1,234" in page.inner_text("#models-card")
    (tmp_path / "w.ckpt").write_bytes(b"\x80\x04")
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "w.ckpt"))
    page.click("#models-load")
    assert "pickle" in error(page)
    choose_model(page, "mnist-random")  # the failure covers nothing
    choose_model(page, "cifar10-random")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.json").write_text('{"format": 1, "row": "<img src=http://evil.invalid/x>"}')
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "evil"))
    page.click("#models-load")
    error(page, "evil")
    make_checkpoint(tmp_path / "mine", size=16, seed=9)
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "mine"))
    page.click("#models-load")
    page.wait_for_function("() => (document.querySelector('#models-card h3')?.textContent ?? '') === 'mine'")
