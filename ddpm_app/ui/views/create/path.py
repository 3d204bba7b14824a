"""Interpolation between two images (through their latent codes or a noise level) or two seeds: a strip and an animation."""

from __future__ import annotations

import gradio as gr
import numpy as np
import torch

from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.flags import whole
from ddpm_app.images import render
from ddpm_app.studio import exports, interpolate
from ddpm_app.studio.interpolate import PathRequest
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.player import Player
from ddpm_app.ui.components.strip import Strip
from ddpm_app.ui.events import INSTANT, Throttle, idle, run_buttons, running, wire_run
from ddpm_app.ui.forms.image_source import TEST, build_source
from ddpm_app.ui.forms.sampling import UI_SEED, sampler_choices
from ddpm_app.ui.replay import RECORDINGS

STRIP = 9
WAYS = [("two images, through the probability flow", "ode"), ("two images, noised to t", "noise"), ("two seeds", "seeds")]
ABOUT = {
    "ode": "Each image is carried up to pure noise by the deterministic ODE; the two codes are joined by a great circle and brought back.",
    "noise": "Both are noised to t and mixed there; the higher t, the more the model makes up (Ho et al., figure 8).",
    "seeds": "The noises of two seeds, joined by a great circle: the ends are what Generate makes of them.",
}


def chosen(n: int, most: int = STRIP) -> list[int]:
    """At most `most` of n indices, evenly spaced, with both ends."""
    return list(range(n)) if n <= most else [round(k * (n - 1) / (most - 1)) for k in range(most)]


def strip_message(run: str, images: np.ndarray, labels: list[str], ends: list[int], status: str, progress: float) -> dict:
    cells = render.grid(torch.from_numpy(np.ascontiguousarray(images)), len(images), pad=0)
    head = {"run": run, "w": images.shape[3], "h": images.shape[2], "labels": labels, "ends": ends}
    return {**head, "strip": b64(render.encode(cells, "png")), "status": status, "progress": progress, "done": progress >= 1}


def build(studio: Studio, model: gr.Dropdown) -> None:
    gr.HTML("<p class='purpose'>Walk from one image to another through the noise they come from.</p>", apply_default_css=False)
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Interpolate", "path")
            with gr.Group():
                way = gr.Radio(WAYS, value="ode", label="Between", info=ABOUT["ode"], elem_id="path-way")
                t = gr.Slider(1, 1000, value=PathRequest.t, step=1, label="t both are noised to", visible=False, elem_id="path-t")
                share = gr.Checkbox(True, label="The same noise for both", visible=False)
            with gr.Group():
                first = build_source(studio, model, "path-a", 0, "A")
            with gr.Group():
                second = build_source(studio, model, "path-b", 1, "B")
            with gr.Row(visible=False) as seeds:
                seed = gr.Number(PathRequest.seed, label="Seed A", precision=0, minimum=0, min_width=110, elem_id="path-seed")
                seed_b = gr.Number(PathRequest.seed_b, label="Seed B", precision=0, minimum=0, min_width=110, elem_id="path-seed-b")
            with gr.Accordion("Advanced", open=False):
                frames = gr.Slider(3, 64, value=PathRequest.frames, step=1, label="Frames", elem_id="path-frames")
                sampler = gr.Dropdown(sampler_choices(), value=PathRequest.sampler, label="Sampler of the way back")
                evaluations = gr.Slider(
                    3, 200, value=PathRequest.evaluations, step=2, label="Evaluations", info="Of each way; 39 bring most images back."
                )
                guidance = gr.Slider(
                    0, 10, value=PathRequest.guidance, step=0.1, label="Guidance scale s", info="Of the way back; 1 is off."
                )
            command = gr.Code(
                "", language="shell", label="The same from a shell", interactive=False, wrap_lines=True, lines=3, max_lines=8,
                elem_classes="mono", elem_id="path-command",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=320):
            view = Strip(elem_id="path-strip")
            player = Player(
                fps=12, elem_id="path-player", empty=("No animation yet", "It is made of the strip's images, and more of them.")
            )

    def ways(value):
        images = value != "seeds"
        shown = [gr.Slider(visible=value == "noise"), gr.Checkbox(visible=value == "noise"), gr.Row(visible=value != "ode")]
        return [gr.Radio(info=ABOUT.get(value, "")), *shown, gr.Column(visible=images), gr.Column(visible=images)]

    way.change(ways, way, [way, t, share, seeds, first.box, second.box], **INSTANT)

    def run(values: dict):
        name, kind = str(values[model] or ""), str(values[way])
        config = studio.checkpoint(name).config
        yield {view: {"run": None, "busy": "Preparing the ends…"}, **running(start, stop)}
        pictures, labels, names = None, [], []
        for source in (first, second):
            classes = None
            if kind != "seeds":
                image, classes, what, _ = source.images(values, studio, name)
                pictures = image if pictures is None else torch.cat([pictures, image])
                names.append(what)
            labels.append(source.class_name(values, classes, config.classes))
        one = whole(values[seed], "seed A", 0, UI_SEED)
        other = one if kind == "noise" and values[share] else whole(values[seed_b], "seed B", 0, UI_SEED)
        request = PathRequest(
            name, kind, *labels, values[guidance], whole(values[frames], "frames"), str(values[sampler]),
            whole(values[evaluations], "evaluations"), whole(values[t], "t"), one, other,
        )  # fmt: skip
        tests = [int(values[s.index]) for s in (first, second) if kind != "seeds" and values[s.kind] == TEST]
        ends = "" if kind == "seeds" else "--test {} {}".format(*tests) if len(tests) == 2 else "--images A.png B.png"
        yield {command: request.as_command(ends)}
        picks, weights, throttle = chosen(request.frames), request.weights.tolist(), Throttle()
        tag, back = RECORDINGS.new(), SAMPLERS[request.sampler].steps_for(request.evaluations)
        up = max((request.evaluations + 1) // 2, 2) - 1 if kind == "ode" else 0
        for moment in interpolate.interpolate(studio, request, pictures):
            if moment.phase == "encode":
                if throttle.due():
                    status = f"Encoding both: level {moment.i} of {moment.n}"
                    yield {view: strip_message(tag, moment.images, ["A", "B"], [0, 1], status, moment.i / (up + back))}
            elif not moment.done and throttle.due():
                text = f"Back from noise: step {moment.i} of {moment.n}"
                labelled = [f"{weights[k]:.2f}" for k in picks]
                yield {view: strip_message(tag, moment.images[picks], labelled, [], text, (up + moment.i) / (up + back) * 0.99)}
        yield {**finished(tag, request, moment, pictures, names, picks), **idle(start, stop)}

    def finished(tag: str, request: PathRequest, moment: interpolate.Passage, pictures, names: list[str], picks: list[int]) -> dict:
        weights = request.weights.tolist()
        shown, labels, ends = moment.images[picks], [f"{weights[k]:.2f}" for k in picks], []
        status = f"{request.frames} images, {request.evaluations} evaluations back"
        if pictures is not None:  # the originals stand beside their reconstructions
            shown = np.concatenate([pictures[:1].numpy(), shown, pictures[1:].numpy()])
            labels, ends = ["A", *labels, "B"], [0, len(picks) + 1]
            status = f"A: {names[0]}, B: {names[1]}; {status}"
        if moment.error is not None:
            status += f"; A and B come back to {moment.error[0]:.2f} and {moment.error[1]:.2f} grey levels (rms)"
        metas = [[{"tiles": [["from A to B", f"{w:.3f}"], ["frame", f"{k + 1} / {request.frames}"]]}] for k, w in enumerate(weights)]
        for image, w, meta in zip(moment.images, weights, metas):
            RECORDINGS.add(tag, render.encode(exports.picture(image), "png"), meta, f"{w:.2f}")
        h, w = moment.images.shape[2:]
        message = {"run": tag, "at": 0, "total": request.frames, "frames": [b64(f) for f in RECORDINGS.get(tag).frames], "meta": metas}
        message |= {
            "panels": {"titles": ["from A to B"], "w": w, "h": h, "gap": 0},
            "curve": None,
            "name": "ddpm-interpolation",
            "done": True,
        }
        return {view: strip_message(tag, shown, labels, ends, status, 1.0), player: message}

    inputs = first.inputs | second.inputs | {model, way, t, share, seed, seed_b, frames, sampler, evaluations, guidance}
    wire_run(start, stop, run, inputs, [view, player, command], "path-strip", {view: {"run": None}})
