"""The lab's use cases, and the tab in a real Chromium."""

import numpy as np
import pytest
import torch

from ddpm_app import lab as use_cases
from ddpm_app.lab import ROOT, Lab, PlaneRequest, Setup
from ddpm_app.toy_data import ToyDataError, make_data
from ddpm_app.toy_files import from_points
from ddpm_app.toy_training import ToyTrainConfig, find_toys


def frames_of(move):
    return np.frombuffer(move["frames"], "<i2").reshape(len(move["sigma"]), move["n"], 2)


def test_the_shipped_models_open_the_tab():
    found = find_toys([ROOT])
    assert set(found) >= {"moons", "moons-classes", "eight-gaussians"}
    for model in found.values():
        assert {m["name"] for m in model.metrics} >= {"EMD", "NLL, ODE", "NLL, bound"} and (model.path / "README.md").is_file()
    for name in ("moons", "eight-gaussians"):
        assert Lab().setup(name).denoiser is not None
    assert Lab().setup("moons", 0.3).denoiser is None  # other data than the shipped model's
    assert found["moons"].denoiser.network.config.num_classes == 0 and found["moons-classes"].classes == ("upper", "lower")


def test_trajectories_end_where_the_data_is():
    setup = Lab().setup("moons")
    for which in ("learned", "exact", "points"):
        move = use_cases.trajectories(setup, PlaneRequest(which, n=300, evaluations=30))
        frames = frames_of(move)
        assert move["sigma"][0] > 50 and move["sigma"][-1] == 0 and len(move["particles"]) == 300 and move["finite"]
        plane = use_cases.Plane(setup.data)
        end = torch.from_numpy(frames[-1].astype(np.float64)) / 1000 * plane.half + plane.center
        assert float(setup.data.truth.log_prob(end).median()) > -3, which
        again = use_cases.trajectories(setup, PlaneRequest(which, n=300, evaluations=30))
        assert again["frames"] == move["frames"]
    long = use_cases.trajectories(setup, PlaneRequest(n=10, evaluations=1000))
    assert len(long["sigma"]) <= use_cases.FRAMES + 1


def test_a_class_on_request():
    setup = Lab().setup("moons")
    move = use_cases.trajectories(setup, PlaneRequest(n=200, evaluations=30, label=1, scale=2.0))
    assert np.mean(np.array(move["particles"]) == 1) > 0.95
    with pytest.raises(ToyDataError, match="knows no classes"):
        use_cases.trajectories(Setup(make_data("checkerboard", n=100)), PlaneRequest("exact", label=0))


def test_field_points_at_the_posterior_mean_and_differences_vanish_for_the_exact_one():
    setup = Lab().setup("eight-gaussians")
    arrows = use_cases.field(setup, "exact", 10.0)
    plane = use_cases.Plane(setup.data)
    ends = plane.flat(plane.grid(use_cases.ARROWS)) + torch.tensor(arrows["arrows"]).reshape(-1, 2) / 1000
    assert float(ends.norm(dim=1).max()) < 1  # at high noise every arrow ends inside the ring
    same = Setup(setup.data, setup.data.exact())
    object.__setattr__(same.denoiser, "schedule", setup.denoiser.schedule)
    assert use_cases.field(same, "difference", 0.5)["top"] < 1e-9
    assert use_cases.field(setup, "difference", 0.5)["top"] > 1e-4
    with pytest.raises(ToyDataError, match="sigma is"):
        use_cases.field(setup, "exact", 1e9)


def test_density_of_the_learned_sampler_resembles_the_truth():
    setup = Lab().setup("eight-gaussians")
    learned, exact = (np.array(use_cases.density(setup, which)["log_p"]) for which in ("learned", "exact"))
    near = exact > -2
    assert near.sum() > 10 and np.abs(learned[near] - exact[near]).mean() < 0.5


def test_training_in_the_lab_and_many_dimensions():
    x = np.random.default_rng(0).normal(size=(300, 5))
    setup = Setup(from_points(x, "cloud"))
    events = list(Lab().train(setup, ToyTrainConfig(width=16, steps=40, batch=32)))
    assert len(events) == 40 and events[-1][1].denoiser is not None
    move = use_cases.trajectories(events[-1][1], PlaneRequest(n=50, evaluations=5))
    assert frames_of(move).shape == (6, 50, 2)
    for refuse in (lambda s: use_cases.field(s, "learned", 0.5), lambda s: use_cases.density(s, "learned")):
        with pytest.raises(ToyDataError, match="points of 2 numbers"):
            refuse(events[-1][1])
    with pytest.raises(ToyDataError, match="press Train"):
        use_cases.trajectories(setup, PlaneRequest())


def test_betas_of_the_page():
    from ddpm_app.ui.lab import _betas

    assert _betas("") == _betas(None) == {} and _betas("1e-4, 0.02") == {"beta_start": 1e-4, "beta_end": 0.02}
    for text in ("0.1", "a, b", "1,2,3"):
        with pytest.raises(ValueError, match="two numbers between 0 and 1"):
            _betas(text)
    assert _betas("", "cosine") == {} and _betas("1e-4, 0.02", "quadratic")["beta_end"] == 0.02
    with pytest.raises(ValueError, match="the cosine schedule has no betas to set"):
        _betas("1e-4, 0.02", "cosine")


def test_a_configuration_that_cannot_be_trained_is_refused_before_the_first_event():
    setup = Setup(make_data("moons", n=100))
    for config, sentence in ((ToyTrainConfig(T=1), "T is 1"), (ToyTrainConfig(params={"beta_start": 0.1}), "no parameter 'beta_start'")):
        with pytest.raises(ValueError, match=sentence):
            Lab().train(setup, config)  # nothing is iterated


def test_classes_that_are_not_there_get_one_sentence():
    setup = Lab().setup("moons")
    for bad in (2, 49):
        with pytest.raises(ToyDataError, match="there is no class number"):
            use_cases.trajectories(setup, PlaneRequest("exact", n=10, label=bad))
        with pytest.raises(ToyDataError, match="there is no class number"):
            use_cases.density(setup, "exact", bad)


def test_kept_setups_are_bounded_and_hostile_names_find_nothing():
    lab, setup = Lab(), Setup(make_data("moons", n=50))
    names = [lab.keep(setup) for _ in range(use_cases.KEPT + 3)]
    assert lab.get(names[0]) is None and lab.get(names[-1]) is setup
    assert lab.get(None) is None and lab.get({"a": 1}) is None and lab.get("../x") is None


# -- the tab in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url():
    import gradio as gr

    from ddpm_app.ui import lab as tab
    from ddpm_app.ui.theme import launch_options

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
    page.wait_for_function(STATE + "&& lab().v && lab().v.move")
    yield page
    page.close()
    assert trouble == []


# what the component's JavaScript holds, under a short name
STATE = """(window.lab = () => {
  for (const e of document.querySelectorAll('#lab-plane, #lab-plane *')) if (e.__lab) return e.__lab;
  return {};
})"""


@pytest.mark.browser
def test_particles_run_smoothly_and_scrub(page):
    """The way from noise to data plays in the browser: 2,000 particles, 30 frames a second or more on a quiet machine."""
    page.wait_for_function("() => lab().v.move.n === 2000")
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


@pytest.mark.browser
def test_contours_field_and_drawing(page):
    page.click("#lab-contours")
    page.wait_for_function("() => lab().v.density && lab().v.move")
    page.locator("#lab-field input").click()
    page.get_by_role("option", name="difference of the two").click()
    page.wait_for_function("() => lab().v.field && lab().v.field.kind === 'heat'")
    page.click("#lab-plane .draw")
    page.locator("#lab-plane canvas").scroll_into_view_if_needed()
    box = page.locator("#lab-plane canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"], steps=8)
    page.mouse.up()
    page.click("#lab-plane .use")
    page.wait_for_function("() => lab().v && lab().v.data && lab().v.data.name === 'drawn'")
    page.click("#lab-start")
    page.wait_for_function("() => lab().v.move && lab().v.data.name === 'drawn'")
    assert "exact denoiser" in page.inner_text("#lab-note")


@pytest.mark.browser
def test_training_live_and_an_experiment(page):
    page.get_by_text("Particles, seed and training").click()
    page.locator("input[aria-label='number input for Steps']").fill("100")
    page.locator("input[aria-label='number input for Steps']").press("Enter")
    page.click("#lab-train")
    page.get_by_text("Step 100 of 100").wait_for()
    page.wait_for_function("() => lab().v.move && lab().v.hint.includes('just trained')")
    page.get_by_label("T", exact=True).fill("1")
    page.get_by_label("T", exact=True).press("Enter")
    page.wait_for_selector("#lab-train:not([disabled])")
    page.click("#lab-train")
    page.get_by_text("T is 1; a schedule has 2 to 100000 steps").wait_for()
    at_rest(page)
    page.get_by_label("T", exact=True).fill("100")
    page.get_by_label("Betas").fill("0.0001, 0.02")
    page.get_by_label("Betas").press("Tab")
    page.click("#lab-train")
    page.get_by_text("the cosine schedule has no betas to set").wait_for()
    at_rest(page)
    assert "Training" not in page.inner_text("#lab-note")
    page.click("#lab-start")
    page.get_by_text("2000 particles").wait_for()
    page.locator("#lab-experiments").get_by_text("Experiments").click()
    page.locator("#lab-experiments input[role=listbox], #lab-experiments input").first.click()
    page.get_by_role("option", name="likelihood").click()
    page.click("#lab-experiment")
    page.wait_for_function("() => document.querySelectorAll('#lab-rows tbody tr').length === 5")
    assert page.locator("#lab-rows a.csv").get_attribute("download") == "likelihood-moons.csv"


@pytest.mark.browser
def test_training_outlives_another_tab_and_keeps_its_data(page):
    page.locator("#lab-class input").click()
    assert page.locator("ul li[role=option]").evaluate_all("all => all.map(o => o.ariaLabel)") == ["any", "upper", "lower"]
    page.keyboard.press("Escape")
    page.get_by_text("Particles, seed and training").click()
    page.locator("input[aria-label='number input for Steps']").fill("20000")
    page.locator("input[aria-label='number input for Steps']").press("Enter")
    page.click("#lab-train")
    page.wait_for_function("() => lab().v && lab().v.hint === 'learning'")
    for _ in range(2):
        page.get_by_role("tab", name="First").click()
        page.get_by_role("tab", name="Lab", exact=True).click()
    before = page.evaluate("() => lab().run")
    page.wait_for_function("b => lab().run !== b", arg=before)
    assert page.evaluate("() => lab().v.hint") == "learning"
    for button in ("#lab-start", "#lab-train", "#lab-plane .draw"):
        assert page.locator(button).is_disabled(), button
    assert page.locator("#lab-data input").is_disabled() and page.locator("#lab-stop").is_enabled()
    page.click("#lab-stop")
    at_rest(page)
    page.get_by_text("Stopped.").wait_for()
    page.locator("#lab-data input").click()
    page.get_by_role("option", name="eight-gaussians").click()
    page.wait_for_function("() => lab().v.data.name === 'eight-gaussians'")
    page.locator("#lab-class input").click()
    assert page.locator("ul li[role=option]").count() == 9


@pytest.mark.browser
def test_training_that_fails_on_its_way_gives_everything_back(page, monkeypatch):
    from ddpm_app.ui import lab as tab

    def train(setup, config):
        yield next(Lab().train(setup, config))
        raise ValueError("the loss is not a number")

    monkeypatch.setattr(tab.LAB, "train", train)
    page.click("#lab-train")
    page.get_by_text("the loss is not a number").wait_for()
    at_rest(page)
    page.wait_for_function("() => document.querySelector('#lab-note').innerText.trim() === ''")
    page.click("#lab-start")
    page.get_by_text("2000 particles").wait_for()


def at_rest(page):
    """All that a run takes away is back."""
    for button in ("#lab-start", "#lab-train", "#lab-upload", "#lab-data input", "#lab-plane .draw"):
        page.wait_for_selector(f"{button}:not([disabled])")
    page.wait_for_selector("#lab-stop[disabled]")


@pytest.mark.browser
def test_bad_upload_leaves_the_lab_usable(page, tmp_path):
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n3,hello\n")
    with page.expect_file_chooser() as chooser:
        page.click("#lab-upload")
    chooser.value.set_files(str(tmp_path / "bad.csv"))
    page.get_by_text("line 3, column 2 of bad.csv is 'hello', not a number").wait_for()
    before = page.evaluate("() => lab().run")
    page.click("#lab-start")
    page.wait_for_function("b => lab().run !== b", arg=before)
