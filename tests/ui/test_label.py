"""The CLIP tab in a real browser: a grid, samples, uploads; the table, the tiles, ranking by words; errors of bad input."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.classifiers import clip
from tests.classifiers.test_clip import PIXELS, TINY
from tests.ui.steps import error, generated, number, view

pytest.importorskip("open_clip")
pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def small_clip(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, _ = clip.build_model(json.loads(json.dumps(TINY)))
    card = {"data": "random", "real": {"n": 99, "average_top1": 0.5}}
    clip.save_clip_directory(tmp_path / "clip", model, TINY, PIXELS, card)
    monkeypatch.setattr(clip, "SHIPPED", tmp_path / "clip")
    clip._LOADED.clear()


def label(page):
    page.wait_for_selector("#clip-start:not([disabled])")
    page.click("#clip-start")


def refused(page, words):
    error(page, words)
    page.wait_for_selector("#clip-start:not([disabled])")
    assert page.locator("#clip-view .done").count() == 0  # never an old result under a new complaint


def test_labels_of_the_last_grid_and_ranking_by_words(page):
    view(page, "Label")
    label(page)
    refused(page, "there is no generated grid yet")
    page.fill("#clip-words textarea, #clip-words input", "a cat")
    page.click("#clip-rank")
    error(page, "label pictures first")
    view(page, "Create")
    number(page, "Images", 4)
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    generated(page)
    view(page, "Label")
    label(page)
    page.wait_for_selector("#clip-view .done")
    assert page.locator("#clip-view .figures figure").count() == 4
    assert page.locator("#clip-view .heat tbody td").count() == 40 and page.locator("#clip-view .heat td.best").count() == 4
    text = page.inner_text("#clip-view")
    assert "0.2351" in text and "ViT-B/32" in text and "4 of 4 images have a known class" in text
    table = [float(t) for t in page.locator("#clip-view .heat tbody tr").first.locator("td").all_inner_texts()]
    best = page.locator("#clip-view .heat tbody tr").first.locator("td.best")
    assert float(best.inner_text()) == max(table)

    page.fill("#clip-words textarea, #clip-words input", "a red car")
    page.click("#clip-rank")
    page.wait_for_selector("#clip-ranked figure")
    values = [float(t) for t in page.locator("#clip-ranked figcaption b").all_inner_texts()]
    assert len(values) == 4 and values == sorted(values, reverse=True)
    assert "“a red car”" in page.inner_text("#clip-ranked")

    page.fill("#clip-prompts textarea", "a photo of a <b>cat</b>\na dog")
    label(page)
    page.wait_for_function("() => document.querySelectorAll('#clip-view .heat tbody td').length === 8")
    assert "a photo of a <b>cat</b>" in page.inner_text("#clip-view") and page.locator("#clip-view figcaption span b").count() == 0
    page.fill("#clip-prompts textarea", " \n ")
    label(page)
    refused(page, "there is no prompt")
    page.fill("#clip-prompts textarea", "\n".join(f"prompt {k}" for k in range(1000)))
    label(page)
    refused(page, "1,000 prompts were given; at most 100")
    page.click("#clip-reset")
    page.wait_for_function("() => (document.querySelector('#clip-prompts textarea')?.value ?? '').split('\\n').length === 10")


def test_labels_of_samples_and_of_uploads_and_an_unknown_clip(page, tmp_path):
    view(page, "Label")
    page.get_by_label("New samples of the model").check()
    page.wait_for_selector("#clip-request input[aria-label='number input for Images']")
    number(page, "Images", 3, "#clip-request")
    number(page, "Evaluations", 2, "#clip-request")
    label(page)
    page.wait_for_selector("#clip-view .done")
    assert page.locator("#clip-view .figures figure").count() == 3

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(out, "PNG")
    (tmp_path / "good.png").write_bytes(out.getvalue())
    (tmp_path / "broken.png").write_bytes(out.getvalue()[:200])
    page.get_by_label("Uploads").check()
    page.wait_for_selector("#clip-files input[type=file]", state="attached")
    page.set_input_files("#clip-files input[type=file]", [str(tmp_path / "good.png"), str(tmp_path / "broken.png")])
    page.locator("#clip-files", has_text="broken").wait_for()
    label(page)
    page.wait_for_function("() => document.querySelectorAll('#clip-view .figures figure').length === 1")
    text = page.inner_text("#clip-view")
    assert "1 of 2 pictures could not be read; broken.png" in text and "The classes of these images are not known" in text

    box = page.locator("#clip-name input")
    box.fill("ViT-B-99:nothing")
    box.press("Enter")
    label(page)
    refused(page, "no CLIP is called")
    box.fill(clip.DEFAULT_HUB)
    box.press("Enter")
    label(page)
    refused(page, "not in the local cache")


def test_stop_shows_a_sentence_and_removes_the_progress_bar(page, app):
    slow, _ = app
    view(page, "Label")
    page.get_by_label("New samples of the model").check()
    page.wait_for_selector("#clip-request input[aria-label='number input for Images']")
    slow.hold_after = 1
    label(page)
    page.locator("#clip-view", has_text="evaluation").wait_for()
    page.click("#clip-stop")
    page.locator("#clip-view", has_text="Stopped").wait_for()
    page.wait_for_selector("#clip-start:not([disabled])")
    slow.hold_after = None
    page.wait_for_timeout(500)
    assert "Stopped" in page.inner_text("#clip-view") and page.locator("#clip-view progress").count() == 0
