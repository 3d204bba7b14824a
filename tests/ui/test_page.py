"""The page around the views in a real Chromium: header, views and their addresses, theme, terms, errors."""

import pytest

from ddpm_app.ui.glossary import TERMS
from ddpm_app.ui.views import VIEWS
from tests.ui.conftest import PATIENCE, watch
from tests.ui.steps import LAB, error, number, view

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(browser, app):
    """(path, viewport) -> a page at that address, which may not leave the machine or report an error."""
    contexts, troubles = [], []

    def at(path="", width=1440, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        troubles.append(watch(page, app[1]))
        page.set_default_timeout(PATIENCE)
        page.goto(app[1] + path)
        page.wait_for_selector("#header .brand")
        return page

    yield at
    for context in contexts:
        context.close()
    assert not any(troubles)


def shown(page):
    """The key of the view that is visible."""
    page.wait_for_selector("#views > .tabitem:visible")
    return page.locator("#views > .tabitem:visible").get_attribute("id").removeprefix("view-")


def current(page):
    return page.locator("[aria-current=page]").locator("visible=true").all_inner_texts()


def test_an_address_opens_its_view_and_back_returns(opened):
    page = opened("?v=create&__theme=dark")
    page.wait_for_selector("#generate-start")
    assert shown(page) == "create" and current(page) == ["Create"]
    view(page, "Lab")
    page.wait_for_selector("#lab-plane")
    assert page.url.endswith("?v=lab&__theme=dark") and current(page) == ["Lab"]
    view(page, "Glossary")
    page.wait_for_selector("#lab-glossary dt")
    assert "v=glossary" in page.url
    page.go_back()
    page.wait_for_selector("#generate-start:visible")
    assert shown(page) == "create" and current(page) == ["Create"]


@pytest.mark.parametrize("key, there", [("", "#watch-player"), ("?v=bits", "#coding-start"), ("?v=nonsense", "#watch-player")])
def test_a_part_of_the_lab_has_an_address_and_others_open_watch(opened, key, there):
    opened(key).wait_for_selector(f"{there}:visible")


def test_views_change_in_the_browser(opened):
    """Under 100 ms where the machine is idle; here without a request to the server, and never slowly."""
    page = opened()
    for v in VIEWS:
        view(page, v.name)
        page.wait_for_selector(f"#view-{v.key}:visible")
    page.wait_for_timeout(500)
    requests = []
    page.on("request", lambda r: requests.append(r.url))
    took = page.evaluate(
        """async keys => { const took = []; for (const key of keys) { const began = performance.now(); ddpm.goTo(key);
        while (!document.getElementById('view-' + key)?.getClientRects().length) await new Promise(requestAnimationFrame);
        took.push(performance.now() - began); } return took; }""",
        [v.key for v in VIEWS if v.key not in ("lab", "train")] * 3,  # these two ask the server for news when they are opened
    )
    assert sorted(took)[len(took) // 2] < 250 and not [r for r in requests if "/queue/join" in r]


def test_the_theme_changes_in_place_and_keeps_a_filled_form(opened):
    page = opened("?v=create&__theme=light")
    page.wait_for_selector("#generate-start")
    number(page, "Images", 7)
    page.evaluate("() => { window.stays = true; }")
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light
    assert page.evaluate("() => window.stays") and "__theme=dark" in page.url
    assert page.locator("input[aria-label='number input for Images']").locator("visible=true").first.input_value() == "7"


def test_the_fonts_come_with_the_page(opened):
    page = opened()
    page.wait_for_selector("#watch-player")
    page.evaluate("() => document.fonts.ready")
    for font in ("400 15px 'IBM Plex Sans'", "600 15px 'IBM Plex Sans'", "400 17px 'Source Serif 4'", "400 14px 'IBM Plex Mono'"):
        loaded = page.evaluate("async f => (await document.fonts.load(f)).map(face => face.status)", font)
        assert loaded == ["loaded"], font


def test_a_term_explains_itself_on_hover_by_keyboard_and_on_tap(opened):
    page = opened("?v=create")
    page.wait_for_selector("#generate-start")
    label = page.locator("#view-create .explained-guidance span[data-testid=block-info]").first
    box = page.locator("#explanation")
    label.hover()
    box.wait_for()
    assert TERMS["guidance"].text in box.inner_text()
    page.mouse.move(5, 5)
    box.wait_for(state="hidden")
    label.focus()
    box.wait_for()
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")
    phone = opened("?v=create", 390, 844, has_touch=True)
    phone.wait_for_selector("#generate-start")
    phone.locator("#view-create .explained-seed span[data-testid=block-info]").first.tap()
    phone.locator("#explanation").wait_for()
    assert TERMS["seed"].text in phone.inner_text("#explanation")


def test_the_glossary_lists_every_term(opened):
    page = opened("?v=glossary")
    page.wait_for_selector("#lab-glossary dt")
    assert page.locator("#lab-glossary dd").all_inner_texts() == [term.text for term in TERMS.values()]


def test_an_error_stands_below_its_row_until_the_next_click(opened):
    page = opened("?v=create")
    page.wait_for_selector("#generate-start")
    page.locator(".seed-lock input").locator("visible=true").first.check()
    page.get_by_label("Seed", exact=True).locator("visible=true").first.fill("-5")
    page.keyboard.press("Tab")
    page.click("#generate-start")
    assert "the seed is -5" in error(page)
    assert page.evaluate(
        "() => document.querySelector('.error-line').previousElementSibling.contains(document.querySelector('#generate-start'))"
    )
    assert page.locator(".toast-body:visible").count() == 0
    page.wait_for_selector("#generate-start:not([disabled])")
    page.get_by_label("Seed", exact=True).locator("visible=true").first.fill("5")
    page.keyboard.press("Tab")
    number(page, "Images", 1)
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    page.wait_for_selector(".error-line", state="detached")


def test_the_link_button_copies_the_address(opened):
    page = opened("?v=label", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector("#clip-start")
    page.get_by_role("button", name="Copy a link to this").click()
    page.get_by_text("Link copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == page.url


def test_a_phone_has_the_views_at_the_bottom(opened):
    page = opened("", 390, 844)
    page.wait_for_selector("#watch-player")
    bar = page.locator(".bottom > a, .bottom summary")
    assert bar.all_inner_texts() == ["Watch", "Create", "Picture", "Train", "More"] and not page.locator(".top-tabs").is_visible()
    assert all(box["y"] + box["height"] <= 844 and box["height"] >= 44 for box in (item.bounding_box() for item in bar.all()))
    view(page, "Label")
    page.wait_for_selector("#clip-start:visible")
    assert shown(page) == "label"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_nothing_is_wider_than_the_page(opened, theme, width):
    page = opened(f"?__theme={theme}", width, 844)
    for name in ("Watch", "Create", "Your picture", "Label", "Train", *sorted(LAB)):
        view(page, name)
        page.wait_for_selector("#views > .tabitem:visible .block >> visible=true")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    assert page.evaluate("() => document.body.classList.contains('dark')") == (theme == "dark")
