"""Encode: an image as bits (progressive coding, likelihood) and as noise (interpolation)."""

from __future__ import annotations

import gradio as gr

from ..studio import Studio
from . import coding_panel, path_panel


def build(studio: Studio, model: gr.Radio) -> None:
    with gr.Tabs():
        with gr.Tab("Progressive coding", id="encode-bits"):
            coding_panel.build(studio, model)
        with gr.Tab("Interpolation", id="encode-path"):
            path_panel.build(studio, model)
