"""Progressive coding: the bits that an image needs at each noise level, and the image decoded from the first bits."""

from __future__ import annotations

import shlex

import gradio as gr
import torch
from PIL import Image

from ddpm_app.diffusion.coding import State, curve
from ddpm_app.flags import whole, write_flags
from ddpm_app.images import render
from ddpm_app.studio import compression, exports
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.rate_curve import RateCurve
from ddpm_app.ui.events import Throttle, idle, run_buttons, running, wire_run
from ddpm_app.ui.forms.image_source import GIVEN, TEST, build_source
from ddpm_app.ui.forms.sampling import UI_SEED, bounds
from ddpm_app.ui.replay import RECORDINGS

GAP = 2
FLOW_STEPS, FLOW_DRAWS = 30, 4


def panels(state: State, original: torch.Tensor) -> Image.Image:
    """Original, decoded, x_t, each a grid of all images, left to right."""
    columns = exports.grid_columns(len(original))
    grids = [exports.frame_grid(v.numpy(), columns) for v in (original, state.x0, state.x)]
    w, h = grids[0].size
    canvas = Image.new("RGB", (3 * (w + GAP) - GAP, h), (128, 128, 128))
    for k, grid in enumerate(grids):
        canvas.paste(grid, (k * (w + GAP), 0))
    return canvas


def meta_of(state: State, dims: int) -> dict:
    """Means over the images: bits of one, bits and cost per dimension, error in grey levels."""
    bits = float(state.bits.mean())
    rmse = 127.5 * float(state.mse.mean()) ** 0.5
    return {
        "t": state.t,
        "sigma": state.sigma,
        "bits": round(bits, 2),
        "rate": bits / dims,
        "rmse": rmse,
        "cost": float(state.cost.mean()) / dims,
    }


def summary_of(states: list[State], lossless: dict[str, float]) -> dict:
    rates = curve([states])
    parts = {k: getattr(rates, k) for k in ("L_T", "L_mid", "L_0", "total")}
    error = rates.standard_error if rates.n > 1 else None
    return {**parts, "error": error, "n": rates.n, "files": lossless}


def command_of(request: compression.CodeRequest, flags: str, n: int) -> str:
    """The shell command that does the same as the page."""
    flags += f" --n {n}" if n > 1 else ""
    flags = " ".join([flags, *write_flags(request, ("states", "variance", "levels", "seed"))])
    name, label = shlex.quote(request.checkpoint), shlex.quote(request.label)
    return f"python -m ddpm_app code --checkpoint {name} {flags} --label {label} --precision auto --out curve.json bits.webp"


def build(studio: Studio, model: gr.Dropdown) -> None:
    gr.HTML(
        "<p class='purpose'>Send an image as a progressive code and watch the receiver: how many bits each noise level costs, and what the "
        "first bits already show.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Encode", "coding")
            with gr.Group():
                source = build_source(studio, model, "coding")
            with gr.Group():
                states = gr.Slider(
                    10, 999, value=compression.CodeRequest.states, step=1, label="Noise levels visited", elem_id="coding-states",
                    info="A cost drawn in each stretch of steps stands for all of them; 999 visits every t.",
                )  # fmt: skip
                flow = gr.Checkbox(
                    False, label="Flow likelihood too", elem_id="coding-flow",
                    info=f"The ODE's, with its error bar: {FLOW_DRAWS} draws of {2 * FLOW_STEPS + 1} evaluations and gradients.",
                )  # fmt: skip
            with gr.Accordion("Advanced", open=False):
                count = gr.Slider(1, 16, value=1, step=1, label="Test images", info="From the one chosen on; the curves are their mean.")
                variance = gr.Dropdown(
                    [("large: beta_t", "large"), ("small: beta_tilde", "small")],
                    value=compression.CodeRequest.variance,
                    label="Variance of the reverse step",
                )
                levels = gr.Dropdown(
                    [("the schedule's own", "schedule"), ("equal steps of log-SNR", "log-snr")], value=compression.CodeRequest.levels,
                    label="Levels of the chain",
                    info="The same network in other steps: cosine's first ones are coarse.",
                )  # fmt: skip
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Of the noise and of the times drawn.")
            command = gr.Code(
                "",
                language="shell",
                label="The same from a shell",
                interactive=False,
                wrap_lines=True,
                lines=3,
                max_lines=8,
                elem_classes="mono",
            )
        with gr.Column(scale=3, min_width=320):
            view = RateCurve(elem_id="coding-view")

    def run(values: dict):
        name = str(values[model] or "")
        config = studio.checkpoint(name).config
        n = whole(values[count], "test images", 1, 16) if values[source.kind] == TEST else 1
        yield {view: {"run": None, "busy": "Preparing the image…"}, **running(start, stop)}
        images, classes, what, flags = source.images(values, studio, name, n)
        label = source.class_name(values, classes, config.classes) if n == 1 or values[source.label] != GIVEN else "given"
        request = compression.CodeRequest(
            name, label, whole(values[states], "noise levels", *bounds("states", compression.CodeRequest)),
            str(values[variance]), str(values[levels]),
            whole(values[seed], "the seed", 0, UI_SEED),
        )  # fmt: skip
        T, dims, columns = config.schedule.get("T", 1000), images[0].numel(), exports.grid_columns(n)
        total = min(request.states, T - 1) + 2
        width, height = exports.frame_grid(images.numpy(), columns).size
        class_text = "no class" if label == "none" else "each its own class" if label == "given" else f"class {label}"
        head = {
            "run": RECORDINGS.new(),
            "total": total,
            "w": width,
            "h": height,
            "gap": GAP,
            "T": T,
            "dims": dims,
            "what": f"{what}, {class_text}",
        }
        head["visited"] = f"{total - 2} of {T - 1} times t" + ("" if total - 2 == T - 1 else ", each counted for its stretch of steps")
        throttle, seen, waiting, at = Throttle(), [], [], 0
        for state in compression.code(studio, request, images, classes):
            seen.append(state)
            data, meta = render.encode(panels(state, images), "png"), meta_of(state, dims)
            RECORDINGS.add(head["run"], data, meta, compression.caption(state, 0, dims))
            waiting.append((b64(data), meta))
            if len(seen) == 1 or state.t == 0 or throttle.due():
                message = {**head, "at": at, "frames": [d for d, _ in waiting], "meta": [m for _, m in waiting]}
                at, waiting = at + len(waiting), []
                if state.t == 0:
                    message |= {"done": True, "summary": summary_of(seen, compression.lossless(images))}
                    message["flow"] = {"share": 0.0} if values[flow] else None
                yield {view: message, command: command_of(request, flags, n), **({} if values[flow] or state.t else idle(start, stop))}
        if not values[flow]:
            return
        draws = max(FLOW_DRAWS // n, 1)
        steps = compression.flow(studio, request, images, classes, draws, FLOW_STEPS)
        message |= {"at": total, "frames": [], "meta": []}
        while True:
            try:
                share = next(steps)
            except StopIteration as end:
                likelihood = end.value
                break
            if throttle.due():
                yield {view: {**message, "flow": {"share": share}}}
        error = likelihood.standard_error if likelihood.n > 1 else None
        yield {view: {**message, "flow": {"bits": likelihood.bits, "error": error, "draws": likelihood.n}}, **idle(start, stop)}

    inputs = source.inputs | {model, states, flow, count, variance, levels, seed}
    wire_run(start, stop, run, inputs, [view, command], "coding-view", {view: {"run": None}})
