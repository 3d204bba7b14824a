"""The reverse process from x_T to x_0, live, with steps of your own: of one setting, or of two side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator

import gradio as gr

from ddpm_app.diffusion.schedules import Schedule, make_schedule
from ddpm_app.images import render
from ddpm_app.studio import exports
from ddpm_app.studio.studio import Frame, Request, Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.player import Player
from ddpm_app.ui.events import INSTANT, Throttle, idle, run_buttons, running, wire_run
from ddpm_app.ui.forms.sampling import Controls, bounds, build_controls, sampler_choices
from ddpm_app.ui.replay import RECORDINGS

GAP = 4
PIXEL_BUDGET = 12_000_000  # of all frames of a run: a page holds them decoded, four bytes per pixel


def alpha_bar_curve(schedule: Schedule) -> list[float]:
    """alpha_bar at the textbook's t = 0..T, for drawing."""
    return [1.0, *(round(v, 5) for v in schedule.alpha_bar.tolist())]


def meta_of(frame: Frame) -> dict:
    return {
        "t": round(frame.t, 1),
        "sigma": frame.sigma,
        "log_snr": None if math.isinf(frame.log_snr) else frame.log_snr,
        "nfe": frame.nfe,
        "of": frame.evaluations,
    }


def play(frames: Iterator[tuple[Frame, ...]], titles: list[str], schedule: Schedule, view: Player, start, stop, extra: dict):
    """Messages for the player with the new frames: at most 12 messages a second, and always one for the first and the last frame."""
    run, throttle, waiting, at, head, every = RECORDINGS.new(), Throttle(), [], 0, {}, 1
    for moment in frames:
        moves = max(f.n for f in moment)
        k = max(moment, key=lambda f: f.n).i
        done = all(f.done for f in moment)
        columns = exports.grid_columns(len(moment[0].x))
        if not head:
            panel = exports.frame_grid(moment[0].x, columns).size
            every = max(1, math.ceil((moves + 1) * panel[0] * panel[1] * 2 * len(moment) / PIXEL_BUDGET))
            total = len([j for j in range(moves + 1) if j % every == 0 or j == moves])
            panels = {"titles": titles, "w": panel[0], "h": panel[1], "gap": GAP}
            head = {"run": run, "total": total, "panels": panels, "curve": alpha_bar_curve(schedule), "every": every}
        if k % every and not done:
            continue
        picture = exports.frame_picture(moment, columns, GAP)
        data = render.encode(picture, "png" if done else "jpeg")
        meta = [meta_of(f) for f in moment]
        RECORDINGS.add(run, data, meta, "   ".join(f"t {f.t:.0f}  sigma {f.sigma:.3g}  eval {f.nfe}/{f.evaluations}" for f in moment))
        waiting.append((b64(data), meta))
        if k == 0 or done or throttle.due():
            message = {**head, "at": at, "frames": [d for d, _ in waiting], "meta": [m for _, m in waiting], "done": done}
            at, waiting = at + len(waiting), []
            yield {view: message, **(extra if k == 0 else {}), **(idle(start, stop) if done else running(start, stop) if k == 0 else {})}


def build(studio: Studio, model: gr.Dropdown) -> Controls:
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Denoise", "denoise")
            controls = build_controls(studio, model, n=9, most=36, rows=False, evaluations=50)
            with gr.Group():
                pair = gr.Checkbox(
                    False, label="Compare side by side", info="Everything else is the same, the noise too.", elem_id="denoise-pair"
                )
                other_sampler = gr.Dropdown(sampler_choices(), value="ddpm", label="Sampler B", visible=False)
                other_scale = gr.Slider(*bounds("guidance"), value=Request.guidance, step=0.1, label="Guidance scale s, B", visible=False)
        with gr.Column(scale=3, min_width=320):
            view = Player(elem_id="denoise-player")
            note = gr.HTML("", elem_classes="note", apply_default_css=False)
    pair.change(
        lambda on: [gr.Dropdown(visible=on), gr.Slider(visible=on)],
        pair, [other_sampler, other_scale], **INSTANT,
    )  # fmt: skip

    def denoise(values: dict):
        request, seed_update = controls.request(values)
        schedule = make_schedule(**studio.checkpoint(request.checkpoint).config.schedule)
        extra = {**seed_update, note: ""}
        if not values[pair]:
            frames = ((f,) for f in studio.sample(request))
            titles = ["Noisy picture", "Network’s guess"]
        else:
            second, _ = controls.request(
                {**values, controls.seed: request.seed, controls.lock: True},
                sampler=str(values[other_sampler]),
                guidance=values[other_scale],
            )
            frames = studio.compare(request, second)
            names = [f"{x}: {r.sampler}, s = {r.guidance:g}" for x, r in zip("AB", (request, second))]
            titles = [f"{name}, {what}" for what in ("noisy picture", "network’s guess") for name in names]
        for message in play(frames, titles, schedule, view, start, stop, extra):
            every = message[view].get("every", 1)
            if every > 1 and message[view]["at"] == 0:
                message[note] = f"One step in {every} is kept: more would not fit into the page's memory. With fewer images all are kept."
            yield message

    wire_run(start, stop, denoise, controls.inputs | {pair, other_sampler, other_scale}, [view, note, controls.seed], "denoise-player")
    return controls
