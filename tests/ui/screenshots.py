"""Pictures of every view, in three widths and both themes: python -m tests.ui.screenshots DIR [VIEW ...]

Writes DIR/VIEW_WIDTH_THEME.png for every view, or for the views named. The page runs in this process with the shipped models."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.ui.conftest import CHROMIUM, FLAGS, PATIENCE

SIZES = ((1440, 900), (1024, 768), (390, 844))
LAB = ("points", "bits", "scores", "models", "glossary")
SETTLED = 1500  # ms for pictures and plots that are drawn after a view has opened


def main(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    from ddpm_app.studio.studio import Studio
    from ddpm_app.ui import build, launch_options
    from ddpm_app.ui.views import VIEWS

    keys = [v.key for v in VIEWS if v.key != "lab"] + list(LAB)
    unknown = [key for key in argv[1:] if key not in keys]
    if unknown:
        print(f"screenshots: there is no view {unknown[0]!r}; accepted are {', '.join(keys)}", file=sys.stderr)
        return 2
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    page_ = build(Studio())
    _, url, _ = page_.launch(prevent_thread_lock=True, **launch_options())
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        for width, height in SIZES:
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 640)
                page = context.new_page()
                page.set_default_timeout(PATIENCE)
                page.goto(f"{url}?__theme={theme}")
                page.wait_for_selector("#header .brand")
                for key in argv[1:] or keys:
                    page.wait_for_function("key => window.ddpm.goTo(key)", arg=key)
                    page.wait_for_selector("#views > .tabitem:visible .block >> visible=true")
                    page.wait_for_timeout(SETTLED)
                    page.screenshot(path=folder / f"{key}_{width}_{theme}.png")
                context.close()
        browser.close()
    page_.close()
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
