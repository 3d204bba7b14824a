"""Generate: a grid of images, live, each with its seed, settings and PNG."""

from __future__ import annotations

import base64
import binascii
import dataclasses

import gradio as gr
import torch

from ddpm_app.images import render
from ddpm_app.studio import exports, png_settings
from ddpm_app.studio.studio import Frame, Request, Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.image_grid import ImageGrid
from ddpm_app.ui.events import HIDDEN, INSTANT, Throttle, guarded, idle, run_buttons, running, wire_run
from ddpm_app.ui.forms.sampling import Controls, build_controls
from ddpm_app.ui.forms.steering import build_steer, ranked_view, settings_of
from ddpm_app.ui.replay import RECORDINGS


def grid_head(request: Request, frame: Frame, classes: tuple[str, ...]) -> dict:
    """The empty grid: order of cells, their labels, row headers where the label is "all"."""
    names = [classes[k] if k >= 0 else "no class" for k in frame.labels]
    size = [frame.x.shape[3], frame.x.shape[2]]
    if request.label == "all" and classes and len(frame.labels) == request.n:  # image i has class i mod K; its row is its class
        k = len(classes)
        rows = min(k, request.n)
        order = [i for row in range(rows) for i in range(row, request.n, k)]
        columns = -(-request.n // k)
        if request.n % k == 0 or request.n <= k:
            return {"labels": names, "size": size, "order": order, "columns": columns, "rows": list(classes[:rows])}
    n = len(names)
    return {"labels": names, "size": size, "order": list(range(n)), "columns": exports.grid_columns(n), "rows": None}


def settings_list(request: Request, i: int, label: str) -> list[list[str]]:
    """[name, text] of each setting, for the list beside a chosen image."""
    shown = [["class", label], ["seed", str(request.seed + i)], ["guidance s", f"{request.guidance:g}"], ["sampler", request.sampler]]
    shown += [["evaluations", str(request.true_evaluations)], ["grid", request.grid], ["model", request.checkpoint]]
    return shown + [[k, f"{v:g}"] for k, v in request.options().items()] + settings_of(request)


def finished(studio: Studio, request: Request, frame: Frame, head: dict, classes: tuple[str, ...]) -> dict:
    """The last message of a run: PNG and settings of every image, and of a re-ranked run the kept and the rejected ones."""
    pngs = [exports.image_png(image, request, i, int(frame.labels[i])) for i, image in enumerate(frame.x)]
    listed = [settings_list(request, i, head["labels"][i]) for i in range(len(pngs))]
    status = f"{request.n} image{'s' if request.n > 1 else ''}, {frame.evaluations} evaluations each; click one"
    message = {"done": True, "pngs": [b64(p) for p in pngs], "settings": listed, "status": status}
    order = range(len(pngs))
    if request.candidates > 1:
        scores = studio.steering.scores(request, studio.checkpoint(request.checkpoint).config, frame.x, frame.labels)
        ranked = ranked_view(request, scores)
        for i, row in enumerate(listed):
            row.append([ranked["score_name"], ranked["scores"][i]])
        order = ranked["kept"]
        first = grid_head(request, dataclasses.replace(frame, labels=frame.labels[: request.n]), classes)
        layout = {**first, "order": [order[i] for i in first["order"]]}
        message |= {"ranked": {**ranked, "layout": layout}, "status": f"{status}. Kept: {ranked['means']}"}
    if words := studio.steering.unknown_words(request, studio.checkpoint(request.checkpoint).config):
        message["status"] += f". CLIP does not know {', '.join(words)}"
    run = head["run"]
    for i in order:  # what the ZIP holds
        RECORDINGS.add(run, pngs[i])
    return message


def hero_value(studio: Studio, name: str | None) -> dict:
    """The grid's value before the first click: the animation of the model, if it has one."""
    checkpoint = studio.checkpoints().get(name or "")
    file = checkpoint.path / "denoising.webp" if checkpoint else None
    if file is None or not file.is_file() or file.stat().st_size > 1_000_000:
        return {"run": None, "hero": ""}
    return {"run": None, "hero": render.data_url(file.read_bytes(), "image/webp")}


def build(studio: Studio, model: gr.Dropdown, last_run: gr.State) -> Controls:
    gr.HTML("<p class='purpose'>Draw new images from pure noise, steered toward a class.</p>", apply_default_css=False)
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Generate", "generate")
            controls = build_controls(studio, model, n=16, most=64, steered=True)
            steer = build_steer(studio, model)
            drop = gr.File(label="Restore settings: drop a PNG saved here", file_types=[".png"], height=150, elem_id="generate-drop")
        with gr.Column(scale=3, min_width=320):
            view = ImageGrid(hero_value(studio, model.value), elem_id="generate-grid")
            with gr.Accordion("Show the code", open=False, elem_id="generate-code"):
                code = gr.Code(
                    "Generate first: the code for what you see appears here.", language="python", label="Python", elem_classes="mono"
                )
                command = gr.Code("", language="shell", label="Command line", elem_classes="mono")

    def generate(values: dict):
        request, seed_update = controls.request(values, **steer.fields(values))
        classes = studio.steering.classes(request, studio.checkpoint(request.checkpoint).config)
        shared = dataclasses.replace(request, checkpoint=studio.address(request.checkpoint))  # a name that is valid on other machines too
        run, throttle, head = RECORDINGS.new(), Throttle(), {}
        for frame in studio.sample(request):
            status = f"evaluation {frame.nfe} of {frame.evaluations}"
            message = {"run": run, "progress": frame.i / frame.n, "status": status}
            if frame.i == 0:
                head = {"run": run, **grid_head(request, frame, classes)}
                yield {
                    view: {**message, **head},
                    code: shared.as_python(),
                    command: shared.as_command(),
                    **seed_update,
                    **running(start, stop),
                }
            elif frame.done:
                yield {view: {**message, **head, **finished(studio, request, frame, head, classes)}, last_run: run, **idle(start, stop)}
            elif throttle.due():
                columns = exports.grid_columns(len(frame.x0))
                preview = render.encode(render.grid(torch.from_numpy(frame.x0), columns, pad=0), "jpeg")
                yield {view: {**message, **head, "preview": b64(preview), "preview_columns": columns}}

    wire_run(start, stop, generate, controls.inputs | steer.inputs, [view, code, command, controls.seed, last_run], "generate-grid")

    def restored(source) -> dict:
        settings = png_settings.read(source)
        return {**controls.restore(settings, studio), **steer.restore(settings)}

    def restore_file(path: str | None):
        return {**restored(path), drop: None} if path else {}

    def restore_click(event: gr.EventData):
        try:
            data = base64.b64decode(str(event._data.get("png", "")), validate=True)
        except (binascii.Error, AttributeError):
            raise ValueError("the image's settings cannot be read; a PNG saved here is accepted") from None
        return restored(data)

    model.change(lambda name: hero_value(studio, name), model, view, **INSTANT)
    restores = [*controls.restored, *steer.inputs]
    drop.upload(guarded(restore_file), drop, [*restores, drop], **HIDDEN)
    view.recall(guarded(restore_click), None, restores, **HIDDEN)
    return controls
