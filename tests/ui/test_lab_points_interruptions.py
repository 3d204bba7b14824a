"""The Lab tab in a real Chromium: what a visitor does while a run or an answer is pending."""

import threading

import pytest

from tests.ui.test_lab_points import STATE, at_rest, enter, page, url  # noqa: F401 - fixtures


@pytest.mark.browser
def test_data_chosen_while_the_tab_opens_stay_chosen(browser, url, monkeypatch):  # noqa: F811
    """The first particles may be ready only after somebody wants others."""
    from ddpm_app.ui.views.lab import points as tab

    gate, move_value = threading.Event(), tab.move_value
    monkeypatch.setattr(tab, "move_value", lambda *args, **more: gate.wait(30) and move_value(*args, **more))
    tab_page = browser.new_page()
    tab_page.set_default_timeout(60_000)
    tab_page.goto(url)
    tab_page.get_by_role("tab", name="Lab", exact=True).click()
    tab_page.wait_for_function("() => (document.querySelector('#lab-note')?.innerText ?? '').trim() === 'Sampling'")
    tab_page.locator("#lab-data input").click()
    tab_page.get_by_role("option", name="circles").click()
    tab_page.get_by_text("Press Train to fit a network").wait_for()
    gate.set()
    tab_page.wait_for_timeout(1500)
    assert tab_page.evaluate(STATE + "&& lab().value.hint") == "circles" and "Press Train" in tab_page.inner_text("#lab-note")
    tab_page.click("#lab-start")
    tab_page.get_by_text("these follow the exact denoiser").wait_for()
    assert tab_page.evaluate("() => lab().value.hint").startswith("circles: ")
    tab_page.close()


@pytest.mark.browser
def test_stopped_runs_show_it_and_can_start_again(page):  # noqa: F811
    """Six runs share one Stop, two share another; no stopped run may look active."""
    page.get_by_text("Particles, seed and training").click()
    enter(page, "input[aria-label='number input for Steps']", "20000")
    page.locator("#lab-experiments").get_by_text("Experiments", exact=True).click()
    for _ in range(3):
        page.click("#lab-train")
        page.wait_for_function("() => lab().value && lab().value.hint === 'learning'")
        page.wait_for_selector("#lab-stop:not([disabled])")
        page.click("#lab-stop")
        at_rest(page)
        page.wait_for_function("() => (document.querySelector('#lab-note')?.innerText ?? '').trim() === 'Stopped.'")
        for name in ("steps", "classifier"):
            page.click(f"#lab-{name}")
            page.wait_for_selector("#lab-halt:not([disabled])")
            page.wait_for_selector("#lab-progress progress")
            page.click("#lab-halt")
            page.wait_for_selector(f"#lab-{name}:not([disabled])")
            page.wait_for_function("() => (document.querySelector('#lab-progress')?.innerText ?? '').trim() === 'Stopped.'")
