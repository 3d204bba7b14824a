"""The Lab tab in a real Chromium."""

import functools
import threading

import numpy as np
import pytest

from ddpm_app.toy.playground import Lab
from ddpm_app.toy.sweeps import Scale
from tests.ui.steps import error


@pytest.fixture(scope="module")
def url():
    import gradio as gr

    from ddpm_app.ui.theme import launch_options
    from ddpm_app.ui.views.lab import points as tab

    with gr.Blocks(analytics_enabled=False) as page:
        with gr.Tabs():
            with gr.Tab("First"):
                gr.Markdown("first")
            with gr.Tab("Lab", id="lab") as lab_tab:
                tab.build(lab_tab)
    _, address, _ = page.launch(prevent_thread_lock=True, **launch_options())
    yield address
    page.close()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    trouble = []
    page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.set_default_timeout(60_000)
    page.goto(url)
    page.get_by_role("tab", name="Lab", exact=True).click()
    page.wait_for_function(STATE + "&& lab().value && lab().value.move")
    yield page
    page.close()
    assert trouble == []


# what the component's JavaScript holds, under a short name
STATE = """(window.lab = () => {
  for (const e of document.querySelectorAll('#lab-plane, #lab-plane *')) if (e.__lab) return e.__lab;
  return {};
})"""


def enter(page, selector, text):
    """Fill a field in a part that was opened just now: its first rendering may set the field's own value once more."""
    frames = "() => new Promise(done => { let n = 0; const tick = () => ++n < 15 ? requestAnimationFrame(tick) : done(); tick(); })"
    box = page.locator(selector)
    box.wait_for()
    for _ in range(4):
        page.evaluate(frames)
        box.fill(text)
        box.press("Tab")
        page.evaluate(frames)
        if box.input_value() == text:
            return
    raise AssertionError(f"{selector} does not keep {text!r}")


@pytest.mark.browser
def test_particles_run_smoothly_and_scrub(page):
    """The way from noise to data plays in the browser: 2,000 particles, 30 frames a second or more on a quiet machine."""
    page.wait_for_function("() => lab().value.move.n === 2000")
    page.click("#lab-plane .play") if page.evaluate("() => lab().playing") else None
    page.locator("#lab-plane .scrub").fill("0")
    assert page.evaluate("() => lab().at") == 0
    drawn = page.evaluate("() => { const t = performance.now(); for (let i = 0; i < 50; i++) { lab().at = i / 2; "
                          "document.querySelector('#lab-plane .scrub').dispatchEvent(new Event('input', { bubbles: true })); } "
                          "return (performance.now() - t) / 50; }")  # fmt: skip
    assert drawn < 33, f"{drawn:.1f} ms to draw a frame of 2,000 particles"
    page.locator("#lab-plane .scrub").fill("5")
    assert abs(page.evaluate("() => lab().at") - 5) < 1e-6 and not page.evaluate("() => lab().playing")
    page.click("#lab-plane .play")
    page.wait_for_function("() => lab().at > 8")
    page.click("#lab-plane .play")
    at = page.evaluate("() => lab().at")
    assert page.evaluate("() => lab().at") == at


@pytest.mark.slow
@pytest.mark.browser
def test_two_thousand_particles_run_at_thirty_frames_a_second(page):
    """Frames really drawn in two seconds of play, paths and contours off and on; says how many. For a machine that does nothing else."""
    page.wait_for_function("() => lab().value.move.n === 2000")
    page.locator("#lab-plane .speed").select_option("0.25")
    for extra in (False, True):
        page.locator("#lab-plane .show-paths").set_checked(extra)
        if page.evaluate("() => lab().playing"):
            page.click("#lab-plane .play")
        page.locator("#lab-plane .scrub").fill("0")
        page.click("#lab-plane .play")
        rate = page.evaluate("""() => new Promise(done => { const from = lab().drawn, t = performance.now();
            setTimeout(() => done(1000 * (lab().drawn - from) / (performance.now() - t)), 2000); })""")
        print(f"{rate:.0f} frames a second with 2,000 particles{', paths on' if extra else ''}")
        assert rate >= 30 and page.evaluate("() => lab().playing")


@pytest.mark.browser
def test_a_field_chosen_while_a_run_goes_on_stays(page, monkeypatch):
    from ddpm_app.ui.views.lab import points as tab

    page.wait_for_function("() => lab().value.move")
    gate, move = threading.Event(), tab.move_value
    monkeypatch.setattr(tab, "move_value", lambda *args, **more: gate.wait(30) and move(*args, **more))
    page.click("#lab-start")
    page.wait_for_selector("#lab-stop:not([disabled])")
    page.locator("#lab-field input").click()
    page.get_by_role("option", name="learned", exact=True).click()
    page.wait_for_function("() => lab().value.field && lab().value.field.kind === 'arrows'")
    gate.set()
    page.wait_for_selector("#lab-start:not([disabled])")
    page.wait_for_function("() => !lab().value.locked && lab().value.move && lab().value.field")


@pytest.mark.browser
def test_contours_field_and_drawing(page):
    page.click("#lab-contours")
    page.wait_for_function("() => lab().value.density && lab().value.move")
    page.locator("#lab-field input").click()
    page.get_by_role("option", name="difference of learned and exact").click()
    page.wait_for_function("() => lab().value.field && lab().value.field.kind === 'heat'")
    for _ in range(2):  # who changes their mind has the plane back
        page.click("#lab-plane .draw")
    assert page.evaluate("() => lab().value.move.n === 2000 && lab().value.field.kind === 'heat'")
    page.click("#lab-plane .draw")
    page.locator("#lab-plane canvas").scroll_into_view_if_needed()
    box = page.locator("#lab-plane canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"], steps=8)
    page.mouse.up()
    page.click("#lab-plane .use")
    page.wait_for_function("() => lab().value && lab().value.data && lab().value.data.name === 'drawn'")
    page.click("#lab-start")
    page.wait_for_function("() => lab().value.move && lab().value.data.name === 'drawn'")
    assert "exact denoiser" in page.inner_text("#lab-note")


@pytest.mark.browser
def test_training_live(page):
    page.get_by_text("Particles, seed and training").click()
    enter(page, "input[aria-label='number input for Steps']", "100")
    page.click("#lab-train")
    page.get_by_text("Step 100 of 100").wait_for()
    page.wait_for_function("() => lab().value.move && lab().value.hint.includes('just trained')")
    page.get_by_label("T", exact=True).fill("1")
    page.get_by_label("T", exact=True).press("Enter")
    page.wait_for_selector("#lab-train:not([disabled])")
    page.click("#lab-train")
    error(page, "T is 1; a schedule has 2 to 100000 steps")
    at_rest(page)
    page.get_by_label("T", exact=True).fill("100")
    page.get_by_label("Betas").fill("0.0001, 0.02")
    page.get_by_label("Betas").press("Tab")
    page.click("#lab-train")
    error(page, "the cosine schedule has no betas to set")
    at_rest(page)
    assert "Training" not in page.inner_text("#lab-note")
    page.click("#lab-start")
    page.get_by_text("2000 particles").wait_for()


@pytest.mark.browser
def test_training_continues_in_another_tab_and_keeps_its_data(page):
    page.locator("#lab-class input").click()
    assert page.locator("ul li[role=option]").evaluate_all("all => all.map(o => o.ariaLabel)") == ["any", "upper", "lower"]
    page.keyboard.press("Escape")
    page.get_by_text("Particles, seed and training").click()
    enter(page, "input[aria-label='number input for Steps']", "20000")
    page.click("#lab-train")
    page.wait_for_function("() => lab().value && lab().value.hint === 'learning'")
    for _ in range(2):
        page.get_by_role("tab", name="First").click()
        page.get_by_role("tab", name="Lab", exact=True).click()
    before = page.evaluate("() => lab().run")
    page.wait_for_function("b => lab().run !== b", arg=before)
    assert page.evaluate("() => lab().value.hint") == "learning"
    for button in ("#lab-start", "#lab-train", "#lab-plane .draw"):
        assert page.locator(button).is_disabled(), button
    assert page.locator("#lab-data input").is_disabled() and page.locator("#lab-stop").is_enabled()
    page.click("#lab-stop")
    at_rest(page)
    page.get_by_text("Stopped.").wait_for()
    page.locator("#lab-data input").click()
    page.get_by_role("option", name="eight-gaussians").click()
    page.wait_for_function("() => lab().value.data.name === 'eight-gaussians'")
    page.locator("#lab-class input").click()
    page.wait_for_function("() => document.querySelectorAll('ul li[role=option]').length === 9")  # the closing list of data fades first


@pytest.mark.browser
def test_controls_are_active_again_after_training_fails(page, monkeypatch):
    from ddpm_app.ui.views.lab import points as tab

    def train(setup, config):
        yield next(Lab().train(setup, config))
        raise ValueError("the loss is not a number")

    monkeypatch.setattr(tab.LAB, "train", train)
    page.click("#lab-train")
    error(page, "the loss is not a number")
    at_rest(page)
    page.wait_for_function("() => (document.querySelector('#lab-note')?.innerText ?? '').trim() === ''")  # nobody stopped it
    page.click("#lab-start")
    page.get_by_text("2000 particles").wait_for()


def at_rest(page):
    """All that a run takes away is back."""
    for button in ("#lab-start", "#lab-train", "#lab-upload", "#lab-data input", "#lab-plane .draw"):
        page.wait_for_selector(f"{button}:not([disabled])")
    page.wait_for_selector("#lab-stop[disabled]")


BAD = {  # file -> what the page says of it
    "text.csv": ("x,y\n1,2\n3,hello\n", "line 3, column 2 of text.csv is 'hello', not a number"),
    "nan.csv": ("1,2\n3,nan\n", "1 values that are not finite numbers, first in row 2"),
    "one.csv": ("1,2\n", "one has 1 point; at least 2 are needed"),
    "wide.csv": (f"{','.join('1' * 65)}\n{','.join('2' * 65)}\n", "wide has 65 columns; accepted are 1 to 64"),
    "objects.npy": (np.array([[None, 1]] * 3, dtype=object), "objects.npy holds Python objects, which are not opened"),
}


@pytest.mark.browser
def test_bad_uploads_leave_the_lab_usable(page, tmp_path):
    def upload(name, content):
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            np.save(tmp_path / name, content, allow_pickle=True)
        with page.expect_file_chooser() as chooser:
            page.click("#lab-upload")
        chooser.value.set_files(str(tmp_path / name))

    for name, (content, sentence) in BAD.items():
        upload(name, content)
        error(page, sentence)
    for name, content, sentence in (
        (
            "million.npy",
            np.random.default_rng(0).normal(size=(1_000_000, 2)).astype(np.float32),
            "1000000 points: a random 100000 of them are used",
        ),
        ("column.csv", "1\n2\n4\n", "3 points of 1 number. One column: shown along a line"),
    ):
        upload(name, content)
        page.get_by_text(sentence).wait_for()
        before = page.evaluate("() => lab().run")
        page.click("#lab-start")
        page.wait_for_function("b => lab().run !== b && lab().value.move", arg=before)
        at_rest(page)


@pytest.mark.browser
def test_the_mixture_has_sliders(page):
    assert not page.locator("#lab-components").is_visible()
    page.locator("#lab-data input").click()
    page.get_by_role("option", name="mixture").click()
    page.wait_for_function("() => lab().value.data.name === 'mixture' && lab().value.data.classes.length === 3")
    page.locator("#lab-components input[type=number]").fill("7")
    page.locator("#lab-components input[type=number]").press("Enter")
    page.wait_for_function("() => lab().value.data.classes.length === 7")
    page.click("#lab-start")
    page.wait_for_function("() => lab().value.move && lab().value.data.name === 'mixture'")


@pytest.mark.browser
def test_experiments_draw_and_export(page, monkeypatch):
    """Each behind its own button; smaller here than on the page."""
    from ddpm_app.ui.views.lab import experiments as tab

    small = {
        "classes": {"scales": (1, 3), "points": 50, "evaluations": 5},
        "classifier": {"draws": 2, "test_points": 100},
        "likelihood": {"scale": Scale(50, 20, 20, 4)},
    }
    for name, settings in small.items():
        run, about = tab.EXPERIMENTS[name]
        monkeypatch.setitem(tab.EXPERIMENTS, name, (functools.partial(run, **settings), about))
    page.locator("#lab-experiments").get_by_text("Experiments", exact=True).click()
    for name, rows, panels in (("classes", 5, 3), ("classifier", 3, 4), ("likelihood", 5, 1)):
        page.click(f"#lab-{name}")
        page.wait_for_function("n => document.querySelectorAll('#lab-rows tbody tr').length === n", arg=rows)
        page.wait_for_selector(f"#lab-{name}:not([disabled])")
        assert page.locator("#lab-curve svg").count() == panels
        assert page.locator("#lab-rows a.csv").get_attribute("download") == f"{name}-moons.csv"
        if name == "classes":
            assert page.locator("#lab-ways canvas").count() == 3 and page.locator("#lab-ways .at").inner_text() == "1"
            page.locator("#lab-ways .scale").fill("1")
            assert page.locator("#lab-ways .at").inner_text() == "3"
    assert page.locator("#lab-curve svg[aria-label^='nats']").is_visible() and page.locator("#lab-ways .ways").is_hidden()
    page.get_by_text("What they do, and their settings").click()
    enter(page, "#lab-T textarea, #lab-T input", "10, 1")
    page.click("#lab-steps")
    error(page, "T is 1; a schedule has 2 to 100000 steps")
    page.wait_for_selector("#lab-steps:not([disabled])")
    assert page.inner_text("#lab-progress").strip() == ""


@pytest.mark.browser
def test_an_untouched_t_averages_over_the_schedule(page):
    """A number field without a value would send 0, the worst of all times."""
    from ddpm_app.ui.views.lab.experiments import one_time

    page.get_by_text("Experiments", exact=True).click()
    page.get_by_text("What they do, and their settings").click()
    assert one_time(page.locator("#lab-t textarea, #lab-t input").input_value()) is None
    assert one_time("0") == 0 and one_time(" 30 ") == 30
    for text in ("x", "1,2", "1.5"):
        with pytest.raises(ValueError, match=r"^t\b"):
            one_time(text)
