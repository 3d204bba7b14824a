"""What the browser tests do on the page: open a view, choose a model, set a number, wait for a grid, read an error."""

from __future__ import annotations

LAB = {"Points", "Bits", "Scores", "Models", "Glossary"}  # tabs of the Lab


def view(page, name):
    """Open a view by the name of its tab, or a tab of the Lab."""
    if name in LAB:
        view(page, "Lab")
        page.locator("#lab-tabs > .tab-wrapper").get_by_role("tab", name=name, exact=True).click()
        return
    page.locator(".top-tabs a, .bottom > a").locator("visible=true").first.wait_for()  # the header is there
    link = page.get_by_role("link", name=name, exact=True).locator("visible=true")
    if not link.count():  # a phone has Label and Lab behind More, and a short name for Your picture
        short = page.locator(".bottom > a", has_text=name.removeprefix("Your ").capitalize())
        if short.count():
            short.click()
            return
        page.locator(".bottom summary").click()
    link.first.click()


def choose_model(page, name):
    """Choose a model in the menu, and wait until the class menus have its classes."""
    page.locator("#model input").click()
    page.get_by_role("option", name=name, exact=True).click()
    model_is(page, name)


def model_is(page, name):
    page.wait_for_function("n => (document.querySelector('#status')?.textContent ?? '').trim().startsWith(n + ' ·')", arg=name)


def number(page, label, value, within="body"):
    box = page.locator(f"{within} input[aria-label='number input for {label}']").locator("visible=true").first
    box.fill(str(value))
    box.press("Enter")


def generated(page):
    page.wait_for_selector("#generate-grid .cell:not([disabled])")


def error(page, words=""):
    """The text of the error on the page that has these words."""
    line = page.locator(".error-line", has_text=words).locator("visible=true").first
    line.wait_for()
    return line.inner_text()


def state(page, component, key):
    """What a component's JavaScript holds, e.g. key "__player"."""
    return page.evaluate(
        """([id, key]) => { for (const e of document.querySelectorAll(`#${id}, #${id} *`)) if (e[key]) { const s = e[key];
        return { drawn: s.drawn, total: s.total, have: (s.frames || []).filter(Boolean).length, done: s.done, pngs: s.pngs, run: s.run, cur: s.shown }; } }""",
        [component, key],
    )
