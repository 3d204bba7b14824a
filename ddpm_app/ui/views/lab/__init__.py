"""Lab: exact numbers, dense, in the field's own terms.

points.py           diffusion in the plane, where the exact density is known
experiments.py      its experiments
bits.py             images as bits: progressive coding and likelihood
scores.py           measured numbers of a model
models.py           checkpoints and their cards
glossary.py         the terms of the page
"""

from __future__ import annotations

import gradio as gr

from ddpm_app.ui.shell import Shell
from ddpm_app.ui.views.lab import bits, glossary, models, points, scores


def build(shell: Shell) -> None:
    with gr.Tabs(elem_id="lab-tabs"):
        with gr.Tab("Points", id="points") as tab:
            points.build(tab)
        with gr.Tab("Bits", id="bits"):
            bits.build(shell.studio, shell.model)
        with gr.Tab("Scores", id="scores"):
            scores.build(shell.studio, shell.model)
        with gr.Tab("Models", id="models"):
            models.build(shell.studio, shell.model)
        with gr.Tab("Glossary", id="glossary"):
            glossary.build()
