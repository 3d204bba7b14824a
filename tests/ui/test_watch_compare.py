"""Watch, More, in a real Chromium: the reverse process live, every frame of it, two settings side by side, and exports."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.ui.steps import number, state, view

pytestmark = pytest.mark.browser


def open_compare(page):
    view(page, "Watch")
    page.locator("#watch-more > button").first.click()
    page.wait_for_selector("#denoise-start")


@pytest.mark.parametrize("latency", [0, 150])
def test_denoise_shows_every_frame_live_and_scrubs_without_the_server(page, latency):
    open_compare(page)
    if latency:
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.send(
            "Network.emulateNetworkConditions", {"offline": False, "latency": latency, "downloadThroughput": -1, "uploadThroughput": -1}
        )
    number(page, "Images", 4)
    number(page, "Evaluations", 60)
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-player .stage.has")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    page.wait_for_function("() => (document.querySelector('#denoise-player .at')?.textContent ?? '').startsWith('60 /')")
    now = state(page, "denoise-player", "__player")
    assert now["total"] == now["have"] == 61 and now["drawn"] >= 20  # played, not jumped to the end
    requests = []
    page.on("request", lambda r: requests.append(r.url))
    picture = "() => document.querySelector('#denoise-player canvas').toDataURL()"
    end = page.evaluate(picture)
    page.locator("#denoise-player .scrub").fill("10")
    assert page.inner_text("#denoise-player .at") == "10 / 60" and page.evaluate(picture) != end
    assert page.locator("#denoise-player .tile").count() == 4
    assert "10 / 60" in page.inner_text("#denoise-player .tiles")
    page.locator("#denoise-player .scrub").fill("60")
    assert page.evaluate(picture) == end and not [r for r in requests if "queue" not in r and "heartbeat" not in r]


def test_denoise_exports(page):
    open_compare(page)
    number(page, "Images", 1)
    number(page, "Evaluations", 8)
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    for kind in ("gif", "webp", "mp4"):
        with page.expect_download() as download:
            page.click(f"#denoise-player [data-kind={kind}]")
        data = Path(download.value.path()).read_bytes()
        if kind == "mp4":
            import av

            with av.open(io.BytesIO(data)) as video:
                assert sum(1 for _ in video.decode(video=0)) >= 9
        else:
            assert Image.open(io.BytesIO(data)).n_frames == 9
        page.wait_for_function("() => /MB/.test((document.querySelector('#denoise-player .exports .note')?.textContent ?? ''))")


def test_compare_two_samplers(page):
    open_compare(page)
    number(page, "Images", 1)
    number(page, "Evaluations", 9)
    page.locator("#denoise-pair input").check()
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    titles = page.locator("#denoise-player figcaption").all_inner_texts()
    assert len(titles) == 4 and "unipc" in titles[0] and "ddpm" in titles[1]  # A and B beside each other


def test_a_tab_opened_late_fetches_the_missed_frames(page):
    open_compare(page)
    number(page, "Images", 1)
    number(page, "Evaluations", 150)
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-stop:not([disabled])")
    view(page, "Models")
    page.wait_for_selector("#models-card h3")
    view(page, "Watch")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    now = state(page, "denoise-player", "__player")
    assert now["have"] == now["total"] == 151
