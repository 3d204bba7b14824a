"""Glossary: the terms of the page, all of them."""

from __future__ import annotations

import html

import gradio as gr

from ddpm_app.ui.glossary import TERMS


def build() -> None:
    rows = "".join(
        f"<dt id='term-{key}'>{html.escape(term.name)}"
        + (f" <i>{html.escape(term.symbol)}</i>" if term.symbol and term.symbol != term.name else "")
        + f"</dt><dd>{html.escape(term.text)}</dd>"
        for key, term in TERMS.items()
    )
    gr.HTML(
        "<p class='purpose'>Words with a dotted line show this text when you point at them or tap them.</p>"
        f"<dl class='glossary'>{rows}</dl>",
        elem_id="lab-glossary",
        apply_default_css=False,
    )
