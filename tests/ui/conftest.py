"""The page in a real Chromium. A page that leaves the machine, or reports an error, fails its test."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from ddpm_app.studio.studio import Studio

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000  # ms; waits end as soon as what they wait for is there
# messages of the libraries, and of a stream that ends with its page
HARMLESS = ("Method not implemented.", "vega", "Vega", "preload", "was detected in the DOM")


class Slow(Studio):
    """A studio whose runs can be held after a step, so that tests do not depend on speed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hold_after = None  # steps
        self.steps = 0

    def sample(self, request, *args, **kwargs):
        for frame in super().sample(request, *args, **kwargs):
            self.steps = frame.i
            yield frame
            deadline = time.monotonic() + 60
            while self.hold_after is not None and frame.i >= self.hold_after and time.monotonic() < deadline:
                time.sleep(0.01)
                yield frame


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium found, and this is CI")
        pytest.skip("no Chromium found (chromium, chromium-browser or google-chrome on the PATH)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def app(roots):
    from ddpm_app.ui import build, launch_options

    studio = Slow(roots, device="cpu", precision="fp32")
    page = build(studio)
    _, url, _ = page.launch(prevent_thread_lock=True, server_port=None, **launch_options())
    yield studio, url
    page.close()


def watch(page, url):
    """A list that fills with what a page must not do: requests that leave the machine, failed requests, errors of scripts."""
    trouble = []
    page.on("request", lambda r: trouble.append(f"left the machine: {r.url}") if not r.url.startswith((url, "data:", "blob:")) else None)
    page.on("response", lambda r: trouble.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda e: trouble.append(f"error: {e}"))
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" and not any(h in m.text for h in HARMLESS) else None)
    return trouble


@pytest.fixture
def page(browser, app):
    studio, url = app
    studio.hold_after = None
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = context.new_page()
    trouble = watch(page, url)
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}?v=create")
    page.wait_for_selector("#generate-start")
    yield page
    context.close()
    assert trouble == []
