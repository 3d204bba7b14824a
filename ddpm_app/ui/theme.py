"""The look of the page: Gradio's theme in terms of assets/tokens.css, the fonts, and the options of launch()."""

from __future__ import annotations

import base64
import inspect
import json
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from ddpm_app.paths import RECORDINGS
from ddpm_app.ui.glossary import as_json

ASSETS = Path(__file__).with_name("assets")
FACES = (  # family, weight, style, file; the Greek letters of formulas have a file of their own
    ("IBM Plex Sans", "400", "normal", "plex-sans-400"),
    ("IBM Plex Sans", "600 700", "normal", "plex-sans-600"),
    ("IBM Plex Mono", "400 600", "normal", "plex-mono-400"),
    ("Source Serif 4", "400", "normal", "source-serif-400"),
    ("Source Serif 4", "600 700", "normal", "source-serif-600"),
    ("Source Serif 4", "400", "italic", "source-serif-400-italic"),
    ("Source Serif 4", "400", "italic", "source-serif-400-italic-greek"),
)
# Gradio's variables, light and dark alike: the tokens themselves change with the theme
VARIABLES = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--ink2)",
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--sunk)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--line2)",
    "border_color_accent_subdued": "var(--line2)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_border_color": "var(--line)",
    "block_padding": "0px",
    "block_label_background_fill": "transparent",
    "block_label_border_width": "0px",
    "block_label_text_color": "var(--ink2)",
    "block_title_text_color": "var(--ink)",
    "block_title_text_weight": "600",
    "block_title_text_size": "var(--sans-4)",
    "block_label_text_size": "var(--sans-4)",
    "block_info_text_color": "var(--ink2)",
    "block_info_text_size": "var(--sans-4)",
    "block_radius": "var(--r-field)",
    "block_shadow": "none",
    "form_gap_width": "0px",
    "layout_gap": "var(--s4)",
    "section_header_text_size": "var(--sans-3)",
    "panel_background_fill": "transparent",
    "panel_border_color": "var(--line)",
    "accordion_text_color": "var(--ink)",
    "button_primary_background_fill": "var(--ink)",
    "button_primary_background_fill_hover": "var(--ink)",
    "button_primary_border_color": "var(--ink)",
    "button_primary_border_color_hover": "var(--ink)",
    "button_primary_text_color": "var(--paper)",
    "button_primary_text_color_hover": "var(--paper)",
    "button_secondary_background_fill": "transparent",
    "button_secondary_background_fill_hover": "var(--sunk)",
    "button_secondary_border_color": "var(--line2)",
    "button_secondary_border_color_hover": "var(--line2)",
    "button_secondary_text_color": "var(--ink)",
    "button_secondary_text_color_hover": "var(--ink)",
    "button_border_width": "1px",
    "button_large_radius": "var(--r-button)",
    "button_medium_radius": "var(--r-button)",
    "button_small_radius": "var(--r-field)",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "600",
    "button_large_text_size": "var(--sans-2)",
    "button_medium_text_size": "var(--sans-3)",
    "color_accent": "var(--ink)",
    "color_accent_soft": "var(--sunk)",
    "input_background_fill": "var(--card)",
    "input_background_fill_focus": "var(--card)",
    "input_background_fill_hover": "var(--card)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--line2)",
    "input_border_color_hover": "var(--line2)",
    "input_border_width": "1px",
    "input_placeholder_color": "var(--ink2)",
    "input_radius": "var(--r-field)",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_text_size": "var(--sans-2)",
    "slider_color": "var(--ink)",
    "checkbox_background_color": "var(--card)",
    "checkbox_background_color_selected": "var(--ink)",
    "checkbox_border_color": "var(--line2)",
    "checkbox_border_color_selected": "var(--ink)",
    "checkbox_border_color_focus": "var(--ink2)",
    "checkbox_border_color_hover": "var(--ink2)",
    "checkbox_label_background_fill": "var(--card)",
    "checkbox_label_background_fill_hover": "var(--card)",
    "checkbox_label_background_fill_selected": "var(--klass-s)",
    "checkbox_label_border_color": "var(--line)",
    "checkbox_label_border_color_hover": "var(--line2)",
    "checkbox_label_border_color_selected": "var(--klass)",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--klass)",
    "checkbox_label_border_width": "1px",
    "link_text_color": "var(--ink)",
    "link_text_color_hover": "var(--ink)",
    "link_text_color_active": "var(--ink)",
    "link_text_color_visited": "var(--ink)",
    "table_border_color": "var(--line)",
    "table_even_background_fill": "var(--card)",
    "table_odd_background_fill": "var(--paper)",
    "table_row_focus": "var(--sunk)",
    "table_text_color": "var(--ink)",
    "code_background_fill": "var(--sunk)",
    "error_background_fill": "var(--bad-s)",
    "error_border_color": "var(--bad)",
    "error_text_color": "var(--bad)",
    "error_icon_color": "var(--bad)",
    "stat_background_fill": "var(--klass-f)",
}


def make_theme() -> gr.themes.Base:
    """The theme, light and dark. Fonts are names in plain strings: font_faces() defines them, and no web font is fetched."""
    theme = gr.themes.Base(
        primary_hue="stone",
        secondary_hue="stone",
        neutral_hue="stone",
        font=["IBM Plex Sans", "system-ui", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["IBM Plex Mono", "ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    known = inspect.signature(theme.set).parameters
    dark = {f"{k}_dark": v for k, v in VARIABLES.items() if f"{k}_dark" in known}
    return theme.set(**VARIABLES, **dark)


def font_faces() -> str:
    """@font-face rules with the fonts in them, so that no request is made for one. display: swap shows the text before they are read."""
    rules = []
    for family, weight, style, name in FACES:
        data = base64.b64encode((ASSETS / "fonts" / f"{name}.woff2").read_bytes()).decode()
        span = "unicode-range:U+370-3FF;" if name.endswith("greek") else ""
        rules.append(
            f'@font-face{{font-family:"{family}";font-weight:{weight};font-style:{style};font-display:swap;{span}'
            f'src:url(data:font/woff2;base64,{data}) format("woff2")}}'
        )
    return "\n".join(rules)


def head() -> str:
    """What the page adds to <head>: tokens, fonts, the shell's style and script. Gradio's css= drops rules of <body> inside @media."""
    style = font_faces() + (ASSETS / "tokens.css").read_text() + (ASSETS / "shell.css").read_text()
    script = (ASSETS / "shell.js").read_text().replace("{/* glossary */}", json.dumps(as_json()).replace("<", "\\u003c"))
    return f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style>\n<script>{script}</script>'


def launch_options() -> dict:
    """The arguments of launch() for an offline page with this theme."""
    return {
        "theme": make_theme(),
        "css": (ASSETS / "gradio.css").read_text(),
        "head": head(),
        "ssr_mode": False,
        "pwa": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "state_session_capacity": 300,
        "max_file_size": "33mb",
        "app_kwargs": {
            "routes": [Mount("/recordings", StaticFiles(directory=RECORDINGS), "recordings")],
            "middleware": [Middleware(GZipMiddleware, compresslevel=5)],  # Gradio compresses nothing; streams and pictures are left alone
        },
        "quiet": True,
    }
