"""Generate: a grid of images as they form, each with its seed, its settings and its PNG."""

from __future__ import annotations

import base64
import binascii
import dataclasses

import gradio as gr
import torch

from .. import exports, png_settings, viz
from ..studio import Frame, Request, Studio
from .components import ImageGrid, b64
from .controls import Controls, build_controls
from .handlers import Pace, guarded, idle, running, wire_run
from .store import RUNS


def grid_head(request: Request, frame: Frame, classes: tuple[str, ...]) -> dict:
    """The empty grid: order of cells, their labels, row headers when all classes are asked for."""
    names = [classes[k] if k >= 0 else "no class" for k in frame.labels]
    size = [frame.x.shape[3], frame.x.shape[2]]
    if request.label == "all" and classes:  # image i has class i mod K; its row is its class
        k = len(classes)
        rows = min(k, request.n)
        order = [i for row in range(rows) for i in range(row, request.n, k)]
        columns = -(-request.n // k)
        if request.n % k == 0 or request.n <= k:
            return {"labels": names, "size": size, "order": order, "columns": columns, "rows": list(classes[:rows])}
    return {"labels": names, "size": size, "order": list(range(request.n)), "columns": exports.grid_columns(request.n), "rows": None}


def settings_list(request: Request, i: int, label: str) -> list[list[str]]:
    """What the page lists beside a chosen image."""
    shown = [["class", label], ["seed", str(request.seed + i)], ["guidance s", f"{request.guidance:g}"], ["sampler", request.sampler]]
    shown += [["evaluations", str(request.true_evaluations)], ["grid", request.grid], ["model", request.checkpoint]]
    return shown + [[k, f"{v:g}"] for k, v in request.options().items()]


def hero_value(studio: Studio, name: str | None) -> dict:
    """What the grid shows before the first click: the animation that ships with a model, if one does."""
    checkpoint = studio.checkpoints().get(name or "")
    file = checkpoint.path / "denoising.webp" if checkpoint else None
    if file is None or not file.is_file() or file.stat().st_size > 1_000_000:
        return {"run": None, "hero": ""}
    return {"run": None, "hero": "data:image/webp;base64," + b64(file.read_bytes())}


def build(studio: Studio, model: gr.Radio, last_run: gr.State) -> Controls:
    gr.HTML("<p class='purpose'>Draw new images from pure noise, steered toward a class.</p>", apply_default_css=False)
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            with gr.Row(elem_classes="run-row"):
                start = gr.Button("Generate", variant="primary", elem_id="generate-start", min_width=120)
                stop = gr.Button("Stop", interactive=False, elem_id="generate-stop", min_width=80)
            controls = build_controls(studio, model, n=16, most=64)
            drop = gr.File(label="Restore settings: drop a PNG saved here", file_types=[".png"], height=150, elem_id="generate-drop")
        with gr.Column(scale=3, min_width=320):
            view = ImageGrid(hero_value(studio, model.value), elem_id="generate-grid")
            with gr.Accordion("Show the code", open=False, elem_id="generate-code"):
                code = gr.Code(
                    "Generate first: the code for what you see appears here.", language="python", label="Python", elem_classes="mono"
                )
                command = gr.Code("", language="shell", label="Command line", elem_classes="mono")

    def generate(values: dict):
        request, seed_update = controls.request(values)
        classes = studio.checkpoint(request.checkpoint).config.classes
        shared = dataclasses.replace(request, checkpoint=studio.address(request.checkpoint))  # runs elsewhere, too
        run, pace, head = RUNS.new(), Pace(), {}
        for frame in studio.sample(request):
            status = f"evaluation {frame.nfe} of {frame.evaluations}"
            message = {"run": run, "progress": frame.i / frame.n, "status": status}
            if frame.i == 0:
                head = grid_head(request, frame, classes)
                yield {
                    view: {**message, **head},
                    code: shared.as_python(),
                    command: shared.as_command(),
                    **seed_update,
                    **running(start, stop),
                }
            elif frame.done:
                pngs = [exports.image_png(image, request, i, int(frame.labels[i])) for i, image in enumerate(frame.x)]
                for png in pngs:
                    RUNS.add(run, png)
                listed = [settings_list(request, i, head["labels"][i]) for i in range(request.n)]
                status = f"{request.n} image{'s' if request.n > 1 else ''}, {frame.evaluations} evaluations each; click one"
                done = {**message, **head, "done": True, "status": status, "pngs": [b64(p) for p in pngs], "settings": listed}
                yield {view: done, last_run: run, **idle(start, stop)}
            elif pace.due():
                columns = exports.grid_columns(request.n)
                preview = viz.encode(viz.grid(torch.from_numpy(frame.x0), columns, pad=0), "jpeg")
                yield {view: {**message, **head, "preview": b64(preview), "preview_columns": columns}}

    wire_run(start, stop, generate, controls.inputs, [view, code, command, controls.seed, last_run], "generate-grid")

    def restore_file(path: str | None):
        return {**controls.restore(png_settings.read(path), studio), drop: None} if path else {}

    def restore_click(event: gr.EventData):
        try:
            data = base64.b64decode(str(event._data.get("png", "")), validate=True)
        except (binascii.Error, AttributeError):
            raise ValueError("this image's settings could not be read") from None
        return controls.restore(png_settings.read(data), studio)

    model.change(lambda name: hero_value(studio, name), model, view, show_progress="hidden", api_visibility="private", queue=False)
    drop.upload(guarded(restore_file), drop, [*controls.restored, drop], show_progress="hidden", api_visibility="private")
    view.recall(guarded(restore_click), None, controls.restored, show_progress="hidden", api_visibility="private")
    return controls
