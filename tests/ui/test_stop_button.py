"""The page in a real Chromium: Stop, and models without classes."""

import time

import pytest

from ddpm_app.ui.events import AT_ONCE
from tests.ui.conftest import PATIENCE
from tests.ui.steps import choose_model, error, generated, number

pytestmark = pytest.mark.browser


def test_stop_ends_the_run_at_its_next_step(page, app):
    studio, _ = app
    studio.hold_after = 5
    number(page, "Evaluations", 40)
    page.click("#generate-start")
    page.wait_for_function("() => (document.querySelector('#generate-grid .status')?.textContent ?? '').startsWith('evaluation')")
    page.wait_for_selector("#generate-stop:not([disabled])")
    page.click("#generate-stop")
    page.wait_for_selector("#generate-start:not([disabled])")
    page.wait_for_function("() => (document.querySelector('#generate-grid .status')?.textContent ?? '').startsWith('Stopped at')")
    studio.hold_after = None
    time.sleep(0.5)  # would be 35 more steps of a network this small
    assert studio.steps <= 6
    number(page, "Evaluations", 3)
    page.click("#generate-start")
    generated(page)


def test_stop_and_start_again_many_times(page, app):
    """The browser must not show a stopped run as active."""
    studio, _ = app
    for k in range(8):
        studio.hold_after = 1 + k % 2
        number(page, "Evaluations", 20 + k)
        page.click("#generate-start")
        page.wait_for_selector("#generate-stop:not([disabled])")
        page.click("#generate-stop")
        page.wait_for_selector("#generate-start:not([disabled])")
    studio.hold_after = None
    number(page, "Evaluations", 3)
    page.click("#generate-start")
    generated(page)


def test_a_waiting_run_is_announced_and_can_be_stopped(page, browser, app):
    """Four runs are active at the same time, over all visitors."""
    studio, url = app
    studio.hold_after = 1
    others = [browser.new_page() for _ in range(AT_ONCE)]
    try:
        for other in others:
            other.set_default_timeout(PATIENCE)
            other.goto(f"{url}?v=create")
            other.click("#generate-start")
            other.wait_for_selector("#generate-grid .status:has-text('evaluation')")
        number(page, "Evaluations", 3)
        for _ in range(2):
            page.click("#generate-start")
            page.wait_for_selector("[data-testid=toast-body]:has-text('Yours starts when one of them ends')")
            page.click("#generate-stop")
            page.wait_for_selector("#generate-start:not([disabled])")
        assert page.evaluate("() => (document.querySelector('#generate-grid .status')?.textContent ?? '')") == ""
        page.click("#generate-start")
        page.wait_for_selector("#generate-stop:not([disabled])")
        studio.hold_after = None
        generated(page)  # the stopped runs did not run before it
        page.wait_for_selector("#generate-start:not([disabled])")
    finally:
        studio.hold_after = None
        for other in others:
            other.close()


def test_classifier_guidance_gives_an_unconditional_model_classes(page):
    choose_model(page, "plain-random")
    menu = page.locator("input[aria-label='Class']").locator("visible=true").first
    page.wait_for_function("() => [...document.querySelectorAll('input[aria-label=Class]')].some(i => i.value === 'none (unconditional)')")
    menu.click()
    page.get_by_role("option", name="horse", exact=True).click()
    number(page, "Images", 2)
    number(page, "Evaluations", 2)
    page.click("#generate-start")  # without guidance it has no classes
    assert "classifier scale" in error(page)
    page.wait_for_selector("#generate-start:not([disabled])")
    page.locator("#steer > button").first.click()
    page.wait_for_selector("#steer-text")
    number(page, "Classifier scale", 4)
    page.click("#generate-start")
    generated(page)
    page.click("#generate-grid .cell >> nth=1")
    assert "horse" in page.inner_text("#generate-grid .detail")
