"""Forward: add noise to a picture, and denoise it from any noise level (SDEdit)."""

from __future__ import annotations

import time

import gradio as gr
import numpy as np

from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.images import render
from ddpm_app.images.decode import PictureError, centre_crop, crop_preview, open_picture, to_array
from ddpm_app.studio.forward import forward_process
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.noise_view import NoiseView
from ddpm_app.ui.components.player import Player
from ddpm_app.ui.components.upload import UploadedPicture, offer_examples
from ddpm_app.ui.events import HIDDEN, INSTANT, guarded, run_buttons, wire_run
from ddpm_app.ui.forms.sampling import Controls, build_controls
from ddpm_app.ui.replay import RECORDINGS
from ddpm_app.ui.shell import Shell
from ddpm_app.ui.views.watch.compare import alpha_bar_curve, play


def model_picture(path: str, studio: Studio, name: str) -> np.ndarray:
    """The picture in the model's shape, uint8 (C, H, W). Raises PictureError."""
    network = studio.checkpoint(name).config.network
    return to_array(centre_crop(open_picture(path), network.image_size, network.in_channels))


def view_value(path: str, studio: Studio, name: str, seed: int, t: int) -> dict:
    """The value of NoiseView: pixels, noise, and alpha_bar of the schedules."""
    config = studio.checkpoint(name).config
    x0 = model_picture(path, studio, name)
    schedule_name = config.schedule["name"]
    schedule = make_schedule(**config.schedule)
    _, eps = forward_process(x0, schedule, [], seed)
    others = [k for k in ("linear", "cosine", "sigmoid") if k != schedule_name]
    schedules = {schedule_name: schedule, **{k: make_schedule(k, schedule.T) for k in others}}
    return {
        "run": RECORDINGS.new(),
        "size": config.network.image_size,
        "channels": config.network.in_channels,
        "x0": b64(x0.tobytes()),
        "eps": b64(eps.astype("<f4").tobytes()),
        "T": schedule.T,
        "model": schedule_name,
        "bars": {k: alpha_bar_curve(s) for k, s in schedules.items()},
        "crop": render.data_url(render.encode(crop_preview(open_picture(path)), "png")),
        "t": t,
    }


def build_view(shell: Shell) -> None:
    shell.follows_model(build(shell.studio, shell.model))


def build(studio: Studio, model: gr.Dropdown) -> Controls:
    gr.HTML(
        "<p class='purpose'>Noise a picture of yours step by step, then let the model denoise it from there.</p>", apply_default_css=False
    )
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            picture = UploadedPicture(
                label="Picture",
                type="filepath",
                sources=["upload", "clipboard", "webcam"],
                format="png",
                height=230,
                elem_id="forward-picture",
            )
            offer_examples(picture)
            t = gr.Slider(0, 1000, value=400, step=1, label="t", info="0 is the picture, T pure noise.", elem_id="forward-t")
            start, stop = run_buttons("Denoise from here", "forward")
            controls = build_controls(studio, model, n=4, most=16, rows=False, evaluations=30, can_unlock=False)
        with gr.Column(scale=3, min_width=320):
            view = NoiseView(elem_id="forward-view")
            player = Player(elem_id="forward-player")

    refused: dict[str, float] = {}

    def load(path, name, seed, level):
        if not path:
            return {"run": None}
        try:
            return view_value(path, studio, str(name), int(seed or 0), int(level or 0))
        except PictureError:
            now, before = time.monotonic(), refused.get(path, 0.0)  # an upload changes the input twice: show one error only
            refused.clear()
            refused[path] = now
            if now - before < 3:
                return {"run": None}
            raise

    show = guarded(load)
    for event in (picture.change, model.change, controls.seed.change):
        loaded = event(show, [picture, model, controls.seed, t], view, **HIDDEN, trigger_mode="always_last")
        loaded.failure(lambda: {"run": None}, None, view, **INSTANT)
    t.change(None, t, None, js="(t) => { if (window.ddpmForward) window.ddpmForward(t); }", api_visibility="private", queue=False)

    def denoise(values: dict):
        if not values[picture]:
            raise PictureError("There is no picture yet: upload, paste or photograph one, or choose an example.")
        # the seed's noise is on screen, so it is used whether the seed is locked or not
        request, _ = controls.request({**values, controls.lock: True})
        schedule = make_schedule(**studio.checkpoint(request.checkpoint).config.schedule)
        level = int(values[t])
        if not 1 <= level <= schedule.T:
            raise ValueError(f"t is {level}; a whole number from 1 to {schedule.T} is accepted")
        x0 = model_picture(values[picture], studio, request.checkpoint)
        sigma = min(float(schedule.sigma[level - 1]), 160.0)
        frames = ((f,) for f in studio.sample(request, picture=x0, start=sigma))
        titles = [f"x, from t = {level} down", "predicted x0"]
        yield from play(frames, titles, schedule, player, start, stop, {})

    wire_run(start, stop, denoise, controls.inputs | {picture, t}, [player], "forward-player")
    return controls
