"""Create: what can the model make?

grid.py             a grid of new images, live
path.py             interpolation between two images or two seeds
"""

from __future__ import annotations

import gradio as gr

from ddpm_app.ui.shell import Shell
from ddpm_app.ui.views.create import grid, path


def build(shell: Shell) -> None:
    shell.follows_model(grid.build(shell.studio, shell.model, shell.last_run))
    with gr.Accordion("From one picture to another", open=False, elem_id="create-path"):
        path.build(shell.studio, shell.model)
