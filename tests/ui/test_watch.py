"""Watch in a real Chromium: it opens moving without any computation; scrubbing, keys, a live run, its Stop and its error."""

import io
from pathlib import Path

import pytest
from PIL import Image

from ddpm_app.paths import RECORDINGS
from tests.ui.conftest import PATIENCE, watch

pytestmark = pytest.mark.browser

WATCH = "() => [...document.querySelectorAll('#watch-player, #watch-player *')].find(e => e.__watch)?.__watch"
PIXELS = "() => document.querySelector('#watch-player .view canvas').toDataURL()"


def value(page, expression):
    """What an expression of the player's state s gives."""
    return page.evaluate(f"() => {{ const s = ({WATCH})(); return {expression}; }}")


def wait(page, condition):
    page.wait_for_function(f"() => {{ const s = ({WATCH})(); return s && ({condition}); }}")


def opened(browser, url, **options):
    """A new page on Watch, and the list of what it must not do."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, "accept_downloads": True, **options})
    page = context.new_page()
    trouble = watch(page, url)
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    wait(page, "s.run && s.run.ready && s.drawn > 0")
    return page, trouble


@pytest.fixture
def player(browser, app):
    studio, url = app
    studio.hold_after, studio.steps = None, 0
    page, trouble = opened(browser, url)
    yield page
    page.context.close()
    assert trouble == []


def pause_at(page, p):
    if value(page, "s.playing"):
        page.click("#watch-player .play")
    page.evaluate(f"() => {{ const s = ({WATCH})(); s.p = {p}; }}")
    page.locator("#watch-player .track").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["desktop", "phone"])
def test_it_opens_moving_without_any_computation(browser, app, size):
    studio, url = app
    studio.steps = 0
    page, trouble = opened(browser, url, viewport={"width": size[0], "height": size[1]})
    wait(page, "s.moved")
    page.wait_for_function("() => performance.getEntriesByName('watch-moves').length")
    first = page.evaluate(PIXELS)
    page.wait_for_function(f"first => ({PIXELS})() !== first", arg=first)
    loaded = page.evaluate("() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    weight = page.evaluate(
        "() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".filter(e => e.responseEnd < performance.getEntriesByName('watch-moves')[0].startTime).reduce((sum, e) => sum + e.transferSize, 0)"
    )
    print(f"first moving frame {value(page, 's.moved') - loaded:.0f} ms after DOMContentLoaded, {weight / 1e6:.2f} MB until then")
    assert studio.steps == 0  # nothing was sampled
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
    for part in (".subjects", ".view", ".line", ".steps .on p", ".live", ".make"):  # all of it on the first screen
        box = page.locator(f"#watch-player {part}").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1] - (64 if size[0] < 640 else 0), part
    page.context.close()
    assert trouble == []


def test_scrubbing_draws_in_the_time_of_a_frame_and_asks_nobody(player):
    wait(player, "s.run.rows.x0.length > s.run.steps")
    requests = []
    player.on("request", lambda r: requests.append(r.url))
    box = player.locator("#watch-player .film").bounding_box()
    player.mouse.move(box["x"] + 5, box["y"] + 10)
    player.mouse.down()
    before = value(player, "(s.times.length = 0, s.drawn)")
    for k in range(40):
        player.mouse.move(box["x"] + 5 + k * (box["width"] - 10) / 40, box["y"] + 10)
    player.mouse.up()
    assert value(player, "s.drawn") - before >= 40 and not value(player, "s.playing")
    median = value(player, "[...s.times].sort((a, b) => a - b)[s.times.length >> 1]")
    print(f"median frame while scrubbing: {median:.1f} ms")
    assert median < 16
    assert 33 < value(player, "s.p") < 36 and "step 35" in player.get_attribute("#watch-player .track", "aria-valuetext")
    assert not [r for r in requests if "queue" not in r and "heartbeat" not in r]


def test_keys_guess_and_stages(player):
    wait(player, "s.run.rows.x0.length > s.run.steps")
    player.keyboard.press("Space")
    assert not value(player, "s.playing")
    player.keyboard.press("Space")
    assert value(player, "s.playing")
    pause_at(player, 9)
    assert value(player, "s.p") == 9
    noisy = player.evaluate(PIXELS)
    player.keyboard.down("g")
    guess = player.evaluate(PIXELS)
    player.keyboard.up("g")
    assert guess != noisy and player.evaluate(PIXELS) == noisy
    player.hover("#watch-player .hot button >> nth=0")
    assert player.evaluate(PIXELS) not in (noisy, guess)  # one picture shows its guess
    player.get_by_role("button", name="The details").click()
    assert value(player, "s.p / s.run.steps") == pytest.approx(0.602, abs=1e-3)
    assert "stronger than the noise" in player.inner_text("#watch-player .steps .on p")
    player.locator("#watch-player .track").focus()
    player.keyboard.press("End")
    assert value(player, "s.p") == 36 and player.inner_text("#watch-player .numbers").split() == "t 0 σ 0 log-SNR ∞ picture 100 %".split()
    player.mouse.move(0, 0)
    exact = player.evaluate(PIXELS)
    player.locator("#watch-player .exact").check()
    assert player.evaluate(PIXELS) == exact  # a finished picture has no noise
    player.locator("#watch-player .track").focus()
    player.keyboard.press("Home")
    softened = player.evaluate(PIXELS)
    player.locator("#watch-player .exact").uncheck()
    assert player.evaluate(PIXELS) != softened


def test_digits_and_points_come_when_they_are_chosen(player):
    assert not player.evaluate("() => performance.getEntriesByType('resource').some(e => /digits|points/.test(e.name))")
    player.get_by_role("button", name="Digits").click()
    wait(player, "s.run.subject === 'digits'")
    assert "three" not in player.inner_text("#watch-player .steps")
    player.get_by_role("button", name="Points").click()
    wait(player, "s.run.subject === 'points'")
    assert "One point, taken apart" in player.inner_text("#watch-player .apart")
    ends = value(player, "Array.from(s.run.cloud.x[36].slice(0, 6))")
    assert max(map(abs, ends)) < 1000 and value(player, "s.run.cloud.x.length") == 37
    assert "s=points" in player.url


def test_a_still_page_shows_the_finished_pictures(browser, app):
    page, trouble = opened(browser, app[1], reduced_motion="reduce")
    assert not value(page, "s.playing") and value(page, "s.p") == 36
    page.context.close()
    assert trouble == []


def test_a_live_run_replaces_the_recording_and_is_stopped_at_once(player, app):
    studio, _ = app
    studio.hold_after = 5
    player.click("#watch-player .live")
    player.wait_for_function("() => document.querySelector('#watch-player .live').innerText.includes('step 5 of 36')")
    assert value(player, "s.run.live && s.run.checkpoint") == "cifar10-random"
    player.click("#watch-player .live")
    assert player.inner_text("#watch-player .live").strip() == "Run it live"
    assert "stopped after 5 of 36 steps" in player.inner_text("#watch-player .tell .note")
    studio.hold_after = None
    player.wait_for_selector("#watch-live-photos:not([disabled])", state="attached")
    assert studio.steps <= 6
    player.click("#watch-player .live")
    wait(player, "s.run.live && !s.run.running && s.run.have === 36")
    assert "Computed on this machine" in player.inner_text("#watch-player .tell .note")
    seeds = value(player, "s.run.pictures.map(p => p.seed)")
    assert len(set(seeds)) == 9
    with player.expect_download() as download:
        player.click("#watch-player [data-kind=webp]")
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).n_frames == 37
    player.get_by_role("button", name="Show the recording").click()
    wait(player, "!s.run.live")


def test_a_live_run_of_points(player):
    player.get_by_role("button", name="Points").click()
    wait(player, "s.run.subject === 'points'")
    player.click("#watch-player .live")
    wait(player, "s.run.live && s.run.have === 36")


def test_a_failed_live_run_says_why_and_leaves_the_recording(player, app, monkeypatch):
    studio, _ = app

    def broken(*args, **kwargs):
        raise ValueError("the model is in use")
        yield

    monkeypatch.setattr(studio, "sample", broken)
    player.click("#watch-player .live")
    player.wait_for_selector("#watch-player .tell .error:not([hidden])")
    assert player.inner_text("#watch-player .tell .error") == "the model is in use"
    wait(player, "!s.run.live")
    assert player.inner_text("#watch-player .live").strip() == "Run it live"


def test_the_chosen_picture_goes_to_create_with_its_settings(player):
    player.click("#watch-player .hot button >> nth=5")
    player.click("#watch-player .make")
    player.wait_for_selector("#generate-start")
    seed = value(player, "s.run.pictures[5].seed")
    assert "v=create" in player.url and "c=ship" in player.url and f"seed={seed}" in player.url


def test_the_recordings_are_small():
    sizes = {name: sum(f.stat().st_size for f in RECORDINGS.glob(f"{name}[-.]*")) for name in ("photos", "digits", "points")}
    assert 0 < sizes["photos"] <= 500_000 and 0 < sizes["digits"] <= 300_000 and 0 < sizes["points"] <= 100_000
