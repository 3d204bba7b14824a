"""The Evaluate tab in a real Chromium: measure, read, sort, export, stop and go on, a trade-off curve."""

import json

import pytest

from ddpm_app.checkpoints.measurements import stored_measurements
from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.evaluation import evaluate
from ddpm_app.evaluation.features import classifier_features
from ddpm_app.ui.views.lab import scores as tab
from tests.evaluation.conftest import classifier_folder, model, no_real_data  # noqa: F401 - fixtures
from tests.ui.steps import choose_model, error, view

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_real_data")]
VIEW = "#evaluate-view "


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, classifier_folder):  # noqa: F811
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        evaluate, "build", lambda kind, plan, data_name, device: classifier_features(load_classifier(classifier_folder, device))
    )


def wait_for(page, words):
    page.wait_for_function("w => (document.querySelector('#evaluate-view .what')?.textContent ?? '').includes(w)", arg=words)


@pytest.fixture
def opened(page, model):  # noqa: F811
    view(page, "Scores")
    page.wait_for_selector(VIEW + ".ev")
    for box, value in (("n", "80"), ("evaluations", "2")):
        page.fill(f"#evaluate-{box} input[type=number]", value)
        page.press(f"#evaluate-{box} input[type=number]", "Tab")
    return page


def test_measured_numbers_are_listed_sorted_and_exported(opened, studio, model):  # noqa: F811
    page = opened
    assert page.locator(VIEW + ".empty strong").inner_text() == "Nothing measured yet"
    page.locator("#evaluate-metrics").get_by_text("Nearest neighbours", exact=True).click()
    page.click("#evaluate-start")
    wait_for(page, "numbers measured")
    page.wait_for_selector("#evaluate-start:not([disabled])")
    names = page.locator(VIEW + ".results tbody tr td:first-child").all_inner_texts()
    assert {"FD-classifier", "precision-classifier", "agreement", "closer-than-real-pixels"} <= set(names)
    rows = {r["name"]: r for r in stored_measurements(studio.checkpoint(model))}
    assert set(names) == set(rows)  # kept in metrics.json
    assert page.locator(VIEW + ".confusion tbody tr").count() == 10 and page.locator(VIEW + ".classes tbody tr").count() == 10
    cells = [int(t) for t in page.locator(VIEW + ".confusion tbody td").all_inner_texts() if t != "·"]
    assert sum(cells) == 80 and page.locator(VIEW + ".calibration tbody tr").count() > 0
    assert page.locator(VIEW + ".strips img").count() == 2
    assert page.evaluate("() => [...document.querySelectorAll('#evaluate-view .strips img')].every(i => i.complete && i.naturalWidth > 16)")

    page.locator(VIEW + "[data-sort='1']").click()
    shown = [float(t) for t in page.locator(VIEW + ".results tbody tr td:nth-child(2)").all_inner_texts()]
    assert shown == sorted(shown)
    page.locator(VIEW + "[data-sort='1']").click()
    assert page.locator(VIEW + "th[aria-sort=descending]").count() == 1
    page.locator(VIEW + "[data-row='0']").click()
    assert "comparable" in page.inner_text(VIEW + ".protocol") or "sampler" in page.inner_text(VIEW + ".protocol")
    with page.expect_download() as download:
        page.click(VIEW + ".csv")
    text = open(download.value.path()).read().splitlines()
    assert text[0].startswith("metric,value,error") and "sampler" in text[0] and len(text) == 1 + len(rows)


def test_a_run_after_a_stop_and_a_trade_off_curve(opened, app):
    page, (slow, _) = opened, app
    slow.hold_after = 1
    page.fill("#evaluate-n input[type=number]", "81")
    page.press("#evaluate-n input[type=number]", "Tab")
    page.click("#evaluate-start")
    page.wait_for_selector("#evaluate-stop:not([disabled])")
    wait_for(page, "sampling")
    page.click("#evaluate-stop")
    wait_for(page, "Stopped.")
    page.wait_for_selector("#evaluate-start:not([disabled])")
    slow.hold_after = None
    page.click("#evaluate-start")
    wait_for(page, "numbers measured")
    page.wait_for_selector("#evaluate-curve:not([disabled])")
    page.click("#evaluate-curve")
    wait_for(page, "7 points over guidance")
    assert page.locator(VIEW + "[data-point]").count() == 7
    page.locator(VIEW + "[data-point='3']").click()
    assert page.inner_text(VIEW + ".samples figcaption").startswith("guidance 2:")
    page.select_option(VIEW + ".by select", "confidence")
    assert page.locator(VIEW + "[data-point]").count() == 7


def test_another_model_chosen_during_a_run(opened, app, model):  # noqa: F811
    """The run continues, and the page lists its numbers under its model, once each."""
    page, (slow, _) = opened, app
    slow.hold_after = 1
    page.click("#evaluate-start")
    wait_for(page, "sampling")
    choose_model(page, "mnist-random")
    state = "[...document.querySelectorAll('#evaluate-view, #evaluate-view *')].find(e => e.__evaluate).__evaluate"
    page.wait_for_function(f"() => {state}.pickedModel === 'mnist-random'")  # its answer is here before the run goes on
    page.wait_for_function("() => (document.querySelector('#evaluate-view')?.innerText ?? '').includes('of ')")
    slow.hold_after = None
    wait_for(page, "numbers measured")
    page.wait_for_selector("#evaluate-start:not([disabled])")
    assert page.inner_text(VIEW + ".title h3") == f"Results: {model}"
    names = page.locator(VIEW + ".results tbody tr td:first-child").all_inner_texts()
    assert "FD-classifier" in names and len(names) == len(set(names))
    choose_model(page, "mnist-random")
    choose_model(page, model)
    wait_for(page, "numbers measured")
    page.wait_for_function("n => document.querySelectorAll('#evaluate-view .results tbody tr').length === n", arg=len(names))


def test_another_model_chosen_before_a_stop(opened, app, model):  # noqa: F811
    """What was stopped has no numbers: those of the chosen model are shown, not "nothing measured" under the other's name."""
    page, (slow, _) = opened, app
    state = "[...document.querySelectorAll('#evaluate-view, #evaluate-view *')].find(e => e.__evaluate).__evaluate"
    choose_model(page, "mnist-random")
    page.wait_for_function(f"() => {state}.pickedModel === 'mnist-random'")
    slow.hold_after = 1
    page.click("#evaluate-start")
    wait_for(page, "sampling")
    choose_model(page, model)
    page.wait_for_function(f"m => {state}.pickedModel === m && {state}.model === 'mnist-random'", arg=model)  # the run's next message
    page.click("#evaluate-stop")
    wait_for(page, "Stopped. The samples of mnist-random so far are kept")
    page.wait_for_selector("#evaluate-start:not([disabled])")
    slow.hold_after = None
    assert page.evaluate(f"() => {state}.model") == model


def test_a_wrong_setting_shows_a_sentence(opened):
    page = opened
    for label in ("Frechet distance", "Precision, recall", "Classifier's reading"):
        page.locator("#evaluate-metrics").get_by_text(label, exact=True).click()
    page.click("#evaluate-start")
    assert "no metric is named" in error(page)
    page.wait_for_selector("#evaluate-start:not([disabled])")


def test_a_damaged_metrics_file_shows_a_sentence(studio, model):  # noqa: F811
    (studio.checkpoint(model).path / "metrics.json").write_text('[{"name"')
    value = tab.stored_value(studio, model)
    assert "move it away" in value["trouble"] and value["stored"] == []
    assert tab.stored_value(studio, "gone")["stored"] == [] and json.dumps(value)
