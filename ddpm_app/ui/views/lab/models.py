"""Models: the card and the measured numbers of every checkpoint, and a field that loads another checkpoint."""

from __future__ import annotations

import html

import gradio as gr

from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.model_card import ModelCard, card_html
from ddpm_app.ui.events import HIDDEN, guarded
from ddpm_app.ui.shell import model_choices


def build(studio: Studio, model: gr.Dropdown) -> None:
    gr.HTML("<p class='purpose'>What is here, how it was trained, and what was measured of it.</p>", apply_default_css=False)
    with gr.Row(elem_classes="plain-row"):
        source = gr.Textbox(
            label="Load a checkpoint",
            info="A folder on this machine, or a Hugging Face repo id. safetensors only; pickles are refused unopened.",
            placeholder="runs/my-model   or   user/model",
            max_length=300,
            scale=4,
            elem_id="models-source",
        )
        load = gr.Button("Load", variant="primary", scale=1, min_width=100, elem_id="models-load")
        refresh = gr.Button("Look again", scale=1, min_width=100, elem_id="models-refresh")
    card = ModelCard(_card(studio, model.value), elem_id="models-card")
    with gr.Accordion("The whole card, with the command that trained it", open=False):
        text = gr.Markdown(_text(studio, model.value), elem_id="models-text")
    model.change(lambda name: (_card(studio, name), _text(studio, name)), model, [card, text], **HIDDEN)

    def add(where: str):
        checkpoint = studio.add(str(where or ""))
        gr.Info(f"{html.escape(checkpoint.name)} is loaded.")
        return gr.Dropdown(choices=model_choices(studio), value=checkpoint.name)

    load.click(guarded(add), source, model, **HIDDEN)
    source.submit(guarded(add), source, model, **HIDDEN)
    refresh.click(lambda: gr.Dropdown(choices=model_choices(studio)), None, model, **HIDDEN)


def _card(studio: Studio, name: str | None) -> str:
    checkpoint = studio.checkpoints().get(name or "")
    if checkpoint is None:
        return "<p class='none'>No checkpoint here yet. Train one with train/train_unet.py, or load one above.</p>"
    reasons = "".join(f"<p class='none'>Not readable: {html.escape(r)}</p>" for r in studio.unreadable().values())
    return card_html(checkpoint) + reasons


def _text(studio: Studio, name: str | None) -> str:
    checkpoint = studio.checkpoints().get(name or "")
    if checkpoint is None:
        return ""
    # a downloaded card must not load remote images or contain HTML
    return checkpoint.card().replace("![", "[").replace("<", "&lt;")
