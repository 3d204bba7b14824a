"""Models: every checkpoint found, its card and its measured numbers, and a field that loads another."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.studio.exports import model_facts
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.events import guarded
from ddpm_app.ui.theme import asset


def card_html(checkpoint: Checkpoint) -> str:
    """Facts, measured numbers with their protocol and the sample grid, escaped: a checkpoint may come from anywhere."""
    f, e = model_facts(checkpoint), lambda v: html.escape(str(v))
    facts = [
        ("Data", f"{f['data']}, {f['image']}, {len(f['classes'])} classes"),
        ("Architecture", f"U-Net, {f['channels']} channels x {'-'.join(map(str, f['multipliers']))}, {f['blocks']} blocks a level"),
        ("Parameters", f"{f['parameters'] / 1e6:.2f} M"),
        ("Predicts", f"{f['row']}, {f['schedule']} schedule, T = {f['T']}"),
        ("Images seen", f"{f['images_seen']:,}"),
        ("EMA", f["ema"] or "unknown"),
        ("Place", f["place"]),
    ]
    rows = "".join(f"<dt>{e(k)}</dt><dd>{e(v)}</dd>" for k, v in facts)
    metrics = "".join(
        f"<tr><td>{e(m.get('name'))}</td><td class='num'>{_number(m.get('value'))}</td><td>{e(m.get('protocol'))}</td></tr>"
        for m in f["metrics"]
        if isinstance(m, dict)
    )
    metrics += f"<tr><td colspan='3'>{e(f['metrics_error'])}</td></tr>" if f["metrics_error"] else ""
    table = (
        f"<table><thead><tr><th>Measured</th><th>Value</th><th>Protocol</th></tr></thead><tbody>{metrics}</tbody></table>"
        if metrics
        else "<p class='none'>No measured numbers are stored with this model.</p>"
    )
    samples = checkpoint.path / "samples.png"
    picture = newest_sample(checkpoint.path) if not samples.is_file() else samples
    image = (
        f"<img alt='Samples of {e(checkpoint.name)}, one row a class' src='data:image/png;base64,{b64(picture.read_bytes())}'>"
        if picture
        else ""
    )
    return f"<div class='card'><div><h3>{e(checkpoint.name)}</h3><dl>{rows}</dl></div><div>{image}</div></div>{table}"


def newest_sample(path: Path) -> Path | None:
    """The last sample grid a run has written."""
    return max((path / "samples").glob("*.png"), default=None)


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else html.escape(str(value))


def build(studio: Studio, model: gr.Radio) -> None:
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
    card = gr.HTML(_card(studio, model.value), css_template=asset("models.css"), apply_default_css=False, elem_id="models-card")
    with gr.Accordion("The whole card, with the command that trained it", open=False):
        text = gr.Markdown(_text(studio, model.value), elem_id="models-text")
    model.change(
        lambda name: (_card(studio, name), _text(studio, name)), model, [card, text], show_progress="hidden", api_visibility="private"
    )

    def add(where: str):
        checkpoint = studio.add(str(where or ""))
        gr.Info(f"{html.escape(checkpoint.name)} is loaded.")
        return gr.Radio(choices=list(studio.checkpoints()), value=checkpoint.name)

    load.click(guarded(add), source, model, show_progress="hidden", api_visibility="private")
    source.submit(guarded(add), source, model, show_progress="hidden", api_visibility="private")
    refresh.click(lambda: gr.Radio(choices=list(studio.checkpoints())), None, model, show_progress="hidden", api_visibility="private")


def _card(studio: Studio, name: str | None) -> str:
    found = studio.checkpoints().get(name or "")
    if found is None:
        return "<p class='none'>No checkpoint here yet. Train one with train/train_unet.py, or load one above.</p>"
    reasons = "".join(f"<p class='none'>Not readable: {html.escape(r)}</p>" for r in studio.unreadable().values())
    return card_html(found) + reasons


def _text(studio: Studio, name: str | None) -> str:
    found = studio.checkpoints().get(name or "")
    if found is None:
        return ""
    # a stranger's card may not fetch pictures from elsewhere, nor bring its own HTML
    return found.card().replace("![", "[").replace("<", "&lt;")
