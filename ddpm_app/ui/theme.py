"""The look of the page: indigo on slate, light and dark, local fonts only; and the options of launch()."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

PAGE_STYLE = Path(__file__).with_name("assets") / "page.css"


def make_theme() -> gr.themes.Base:
    """The theme, light and dark. Fonts are names in plain strings, which the browser looks up locally: no web fonts."""
    return gr.themes.Base(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=["Inter", "system-ui", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "DejaVu Sans Mono", "Menlo", "monospace"],
        radius_size="md",
    ).set(
        body_background_fill="#f8fafc",
        body_background_fill_dark="#0b1020",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#111827",
        background_fill_secondary="#f1f5f9",
        background_fill_secondary_dark="#0f172a",
        block_background_fill="#ffffff",
        block_background_fill_dark="#111827",
        block_border_color="#e2e8f0",
        block_border_color_dark="#263045",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="#334155",
        block_label_text_color_dark="#cbd5e1",
        block_title_text_weight="600",
        block_info_text_color="#475569",
        block_info_text_color_dark="#a3b1c6",
        block_shadow="none",
        body_text_color="#0f172a",
        body_text_color_dark="#e5e9f2",
        body_text_color_subdued="#475569",
        body_text_color_subdued_dark="#a3b1c6",
        border_color_primary="#e2e8f0",
        border_color_primary_dark="#263045",
        button_primary_background_fill="#4338ca",
        button_primary_background_fill_hover="#3730a3",
        button_primary_background_fill_dark="#6366f1",
        button_primary_background_fill_hover_dark="#818cf8",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#0b1020",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1a2336",
        button_secondary_border_color="#cbd5e1",
        button_secondary_border_color_dark="#334155",
        color_accent="#4f46e5",
        color_accent_soft="#eef2ff",
        color_accent_soft_dark="#1e2140",
        input_background_fill="#ffffff",
        input_background_fill_dark="#0f172a",
        slider_color="#4f46e5",
        slider_color_dark="#818cf8",
    )


# Gradio sets the theme when a page opens, as a class of <body>, from __theme in the address. ddpmTheme switches the class
# without a reload, so that the page keeps its results, and sets the address for the next reload. Canvases redraw on `ddpm-theme`.
HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1">
<script>
window.ddpmTheme = function switchTheme() {
  const dark = document.body.classList.toggle('dark');
  const address = new URL(location);
  address.searchParams.set('__theme', dark ? 'dark' : 'light');
  history.replaceState(history.state, '', address);
  document.dispatchEvent(new CustomEvent('ddpm-theme'));
};
</script>"""


def launch_options() -> dict:
    """The arguments of launch() for an offline page with this theme."""
    return {
        "theme": make_theme(),
        "css": PAGE_STYLE.read_text(),
        "head": HEAD,
        "ssr_mode": False,
        "pwa": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api"],
        "state_session_capacity": 300,
        "max_file_size": "33mb",
        "quiet": True,
    }
