"""Watch: what is diffusion? A recorded run, a live one in its place, and two settings side by side.

live.py             a live run in the player
compare.py          one setting with steps of your own, or two side by side
"""

from __future__ import annotations

import gradio as gr

from ddpm_app.ui.components.watch import Watch
from ddpm_app.ui.shell import Shell
from ddpm_app.ui.views.watch import compare, live


def build(shell: Shell) -> None:
    live.build(shell.studio, Watch(elem_id="watch-player"))
    with gr.Accordion("More: two settings side by side", open=False, elem_id="watch-more"):
        shell.follows_model(compare.build(shell.studio, shell.model))
