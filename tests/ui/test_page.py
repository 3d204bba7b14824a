"""The page in a real Chromium: generate, watch, stop, upload, download and drop back. No request may leave the machine."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.studio import png_settings
from ddpm_app.studio.exports import request_from_settings
from ddpm_app.studio.forward import forward_process

pytestmark = pytest.mark.browser


def tab(page, name):
    there = page.get_by_role("tab", name=name, exact=True)
    if not there.count() or not there.first.is_visible():  # a phone keeps the last tabs in a menu
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        there.click()


def number(page, label, value, within="body"):
    box = page.locator(f"{within} input[aria-label='number input for {label}']").locator("visible=true").first
    box.fill(str(value))
    box.press("Enter")


def generated(page):
    page.wait_for_selector("#generate-grid .cell:not([disabled])")


def state(page, view, key):
    """What a component's JavaScript holds, e.g. key "__player"."""
    return page.evaluate(
        """([id, key]) => { for (const e of document.querySelectorAll(`#${id}, #${id} *`)) if (e[key]) { const s = e[key];
        return { drawn: s.drawn, total: s.total, have: (s.frames || []).filter(Boolean).length, done: s.done, pngs: s.pngs, run: s.run, cur: s.shown }; } }""",
        [view, key],
    )


def test_generate_click_download_and_drop_back(page, app, tmp_path):
    studio, _ = app
    number(page, "Images", 4)
    number(page, "Evaluations", 6)
    page.click("#generate-start")
    generated(page)
    assert page.locator("#generate-grid .cell").count() == 4
    assert "4 images, 6 evaluations each" in page.inner_text("#generate-grid .status")
    page.click("#generate-grid .cell >> nth=2")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    file = tmp_path / "one.png"
    download.value.save_as(file)
    settings = png_settings.read(file)
    assert settings["checkpoint"] == "cifar10-random" and settings["evaluations"] == 6
    shown = np.asarray(Image.open(file))

    with page.expect_download() as download:
        page.click("#generate-grid .zip")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as z:
        assert len(z.namelist()) == 4 and z.read("00002.png") == file.read_bytes()

    # another model and other settings, then the PNG restores all of them
    page.get_by_label("mnist-random").check()
    page.wait_for_function("() => (document.querySelector('#status .chip')?.textContent ?? '').includes('mnist-random')")
    number(page, "Evaluations", 9)
    page.set_input_files("#generate-drop input[type=file]", str(file))
    page.wait_for_function("() => (document.querySelector('#model-choice input:checked')?.value ?? '') === 'cifar10-random'")
    page.wait_for_function("s => [...document.querySelectorAll('input')].some(i => i.value === s)", arg=str(settings["seed"]))
    images = (
        "() => [...document.querySelectorAll('input[aria-label=\"number input for Images\"]')].some(i => i.offsetParent && i.value === '1')"
    )
    page.wait_for_function(images)
    page.wait_for_function("() => (document.querySelector('#status .chip')?.textContent ?? '').includes('cifar10-random')")
    page.click("#generate-start")
    page.wait_for_function("() => document.querySelectorAll('#generate-grid .cell:not([disabled])').length === 1")
    page.click("#generate-grid .cell")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    again = Path(download.value.path())
    assert png_settings.read(again) == settings
    assert np.abs(np.asarray(Image.open(again)).astype(int) - shown.astype(int)).max() <= 1

    # and the code it shows gives the same pixels
    page.get_by_text("Show the code").click()
    page.wait_for_function("() => /--seed/.test((document.querySelector('#generate-code')?.innerText ?? ''))")  # it unfolds first
    code = page.inner_text("#generate-code")
    assert f"seed={settings['seed']}" in code and f"--seed {settings['seed']}" in code


def test_steer_toward_a_class_and_keep_the_best(page, app, tmp_path):
    studio, _ = app
    page.locator("#steer > button").first.click()
    page.wait_for_selector("#steer-text")
    for label, value in (("Images", 3), ("Evaluations", 4), ("Classifier scale", 4), ("Candidates per image", 4)):
        number(page, label, value)
    page.click("#generate-start")
    page.wait_for_selector("#generate-grid .rejected:not([hidden])")
    generated(page)
    assert page.locator("#generate-grid .stage .cell").count() == 3 and page.locator("#generate-grid .rejected .cell").count() == 9
    scores = [float(t.split()[0]) for t in page.locator("#generate-grid .rejected .cell span").all_text_contents()]
    assert scores == sorted(scores, reverse=True) and "all 12 candidates" in page.inner_text("#generate-grid .status")
    page.click("#generate-grid .stage .cell >> nth=1")
    with page.expect_download() as download:
        page.click("#generate-grid a.png")
    file = tmp_path / "kept.png"
    download.value.save_as(file)
    settings = png_settings.read(file)
    assert settings["classifier_scale"] == 4
    kept = np.asarray(Image.open(file)).astype(int)
    with page.expect_download() as download:
        page.click("#generate-grid .zip")
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as z:
        assert len(z.namelist()) == 3 and z.read("00001.png") == file.read_bytes()
    again = studio.images(request_from_settings(settings, studio.checkpoint("cifar10-random").config.classes))[0][0]
    assert np.abs(again.astype(int) - kept).max() <= 1

    page.get_by_label("mnist-random").check()  # grey: no CLIP, and the page says so
    page.wait_for_function("() => (document.querySelector('#steer-note')?.innerText ?? '').includes('colour photos only')")
    page.set_input_files("#generate-drop input[type=file]", str(file))
    page.wait_for_function("() => (document.querySelector('#model-choice input:checked')?.value ?? '') === 'cifar10-random'")
    page.wait_for_function(
        "() => [...document.querySelectorAll('input[aria-label=\"number input for Candidates per image\"]')].some(i => i.value === '1')"
    )
    assert page.locator("input[aria-label='number input for Classifier scale']").first.input_value() == "4"


def test_all_classes_as_rows(page):
    page.get_by_label("mnist-random").check()
    page.wait_for_function(
        "() => (document.querySelector('#status .chip')?.textContent ?? '').includes('mnist-random')"
    )  # its classes are in the menu
    page.locator("input[aria-label='Class']").locator("visible=true").first.click()
    page.get_by_role("option", name="all, one row each").click()
    number(page, "Images", 20)
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    generated(page)
    assert page.locator("#generate-grid .rowhead").all_inner_texts() == [str(k) for k in range(10)]
    assert page.locator("#generate-grid .cell").count() == 20


@pytest.mark.parametrize("latency", [0, 150])
def test_denoise_shows_every_frame_live_and_scrubs_without_the_server(page, latency):
    tab(page, "Denoise")
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
    tab(page, "Denoise")
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
    tab(page, "Denoise")
    number(page, "Images", 1)
    number(page, "Evaluations", 9)
    page.locator("#denoise-pair input").check()
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    titles = page.locator("#denoise-player figcaption").all_inner_texts()
    assert len(titles) == 4 and "dpmpp-2m" in titles[0] and "ddpm" in titles[2]


def test_a_tab_opened_late_fetches_the_missed_frames(page):
    tab(page, "Denoise")
    number(page, "Images", 1)
    number(page, "Evaluations", 300)
    page.click("#denoise-start")
    page.wait_for_selector("#denoise-stop:not([disabled])")
    tab(page, "Models")
    page.wait_for_selector("#models-card h3")
    tab(page, "Denoise")
    page.wait_for_selector("#denoise-player .exports:not([hidden])")
    now = state(page, "denoise-player", "__player")
    assert now["have"] == now["total"] == 301


def test_forward_shows_the_same_pixels_as_the_schedule_gives(page, tmp_path, app):
    studio, _ = app
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    tab(page, "Forward")
    page.set_input_files("#forward-picture input[type=file]", str(tmp_path / "p.png"))
    page.wait_for_selector("#forward-view .stage.has")
    schedule = make_schedule(**studio.checkpoint("cifar10-random").config.schedule)
    for t in (0, 250, 777):
        number(page, "t", t, "#forward-t")
        page.wait_for_function(
            "t => (document.querySelector('#forward-view .main figcaption')?.textContent ?? '').includes(`t = ${t} of`)", arg=t
        )
        shown = page.evaluate(
            "() => { const c = document.querySelector('#forward-view .xt'); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
        )
        shown = np.array(shown, np.uint8).reshape(16, 16, 4)[..., :3]
        want = forward_process(picture.transpose(2, 0, 1), schedule, [t], seed=0)[0][0].transpose(1, 2, 0)
        assert np.abs(shown.astype(int) - want.astype(int)).max() <= 1, t  # alpha_bar travels with five decimals
    assert page.locator("#forward-view .strip canvas").count() == 10 and page.locator("#forward-view .three canvas").count() == 3
    page.click("#forward-view .strip button >> nth=3")
    page.wait_for_function("() => (document.querySelector('#forward-t input[type=number]')?.value ?? '') === '333'")
    number(page, "Evaluations", 5)
    page.click("#forward-start")
    page.wait_for_selector("#forward-player .exports:not([hidden])")
    assert state(page, "forward-player", "__player")["have"] == 6


@pytest.mark.parametrize("content, says", [(b"this is no picture", "picture"), (b"", "empty")])
def test_a_bad_upload_shows_a_sentence_and_the_page_still_works(page, tmp_path, content, says):
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    tab(page, "Forward")
    page.set_input_files("#forward-picture input[type=file]", str(file))
    toast = page.wait_for_selector("[data-testid=toast-body]")
    assert says in toast.inner_text().lower()
    tab(page, "Generate")
    number(page, "Evaluations", 2)
    page.click("#generate-start")
    generated(page)


def test_a_hostile_png_changes_nothing(page, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("ddpm-studio", json.dumps({"version": 1, "checkpoint": "../../etc/passwd", "evaluations": 10**12}))
    Image.new("RGB", (8, 8)).save(tmp_path / "evil.png", pnginfo=info)
    page.set_input_files("#generate-drop input[type=file]", str(tmp_path / "evil.png"))
    page.wait_for_selector("[data-testid=toast-body]")
    assert page.locator("#model-choice input:checked").input_value() == "cifar10-random"


def test_models_shows_cards_and_refuses_pickles(page, tmp_path, roots):
    from tests.conftest import make_checkpoint

    tab(page, "Models")
    page.wait_for_selector("#models-card h3")
    assert "cifar10-random" in page.inner_text("#models-card") and "1,234" in page.inner_text("#models-card")
    (tmp_path / "w.ckpt").write_bytes(b"\x80\x04")
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "w.ckpt"))
    page.click("#models-load")
    assert "pickle" in page.wait_for_selector("[data-testid=toast-body]").inner_text()
    page.get_by_label("mnist-random").check(timeout=5000)  # the failure covers nothing
    page.get_by_label("cifar10-random").check(timeout=5000)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "config.json").write_text('{"format": 1, "row": "<img src=http://evil.invalid/x>"}')
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "evil"))
    page.click("#models-load")
    page.wait_for_function("() => [...document.querySelectorAll('[data-testid=toast-body]')].some(e => e.textContent.includes('evil'))")
    make_checkpoint(tmp_path / "mine", size=16, seed=9)
    page.fill("#models-source textarea, #models-source input", str(tmp_path / "mine"))
    page.click("#models-load")
    page.wait_for_function("() => (document.querySelector('#models-card h3')?.textContent ?? '') === 'mine'")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_page(browser, app, theme, width):
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(f"{app[1]}?__theme={theme}")
    page.wait_for_selector("#generate-start")
    for name in ("Generate", "Denoise", "Forward", "Models"):
        tab(page, name)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
    dark = page.evaluate("() => document.body.classList.contains('dark')")
    assert dark == (theme == "dark")
    context.close()
