"""The page around the views in a real Chromium: header, views and their addresses, theme, terms, errors."""

import pytest

from tests.ui.steps import LAB, view

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_page(browser, app, theme, width):
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(f"{app[1]}?__theme={theme}")
    page.wait_for_selector("#denoise-start")
    for name in ("Watch", "Create", "Your picture", "Label", "Train", *sorted(LAB)):
        view(page, name)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    dark = page.evaluate("() => document.body.classList.contains('dark')")
    assert dark == (theme == "dark")
    context.close()
