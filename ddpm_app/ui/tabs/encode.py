"""Encode: an image as bits (progressive coding, likelihood) and as noise (interpolation)."""

from __future__ import annotations

import gradio as gr

from ddpm_app.studio.studio import Studio
from ddpm_app.ui.tabs import encode_bits, encode_path


def build(studio: Studio, model: gr.Radio) -> None:
    with gr.Tabs():
        with gr.Tab("Progressive coding", id="encode-bits"):
            encode_bits.build(studio, model)
        with gr.Tab("Interpolation", id="encode-path"):
            encode_path.build(studio, model)
