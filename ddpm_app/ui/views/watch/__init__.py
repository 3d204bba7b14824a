"""Watch: what is diffusion? A recorded denoising, and a live one.

live.py             the reverse process, live, of one setting or of two side by side
"""

from __future__ import annotations

import gradio as gr

from ddpm_app.ui.shell import Shell
from ddpm_app.ui.views.watch import live


def build(shell: Shell) -> None:
    with gr.Column(elem_id="watch-player"):  # the recorded denoising
        pass
    shell.follows_model(live.build(shell.studio, shell.model))
