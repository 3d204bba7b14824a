"""Image exports: PNGs with their settings, ZIPs of PNGs, and the grids of animations."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm_app.flags import settings_of
from ddpm_app.images import render
from ddpm_app.studio import png_settings
from ddpm_app.studio.studio import Frame, Request


def picture(image: np.ndarray) -> Image.Image:
    """uint8 (C, H, W) with C 1 or 3 -> a grey or RGB image."""
    return Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))


def image_settings(request: Request, i: int, label: int) -> dict:
    """The settings that reproduce image i of a request alone."""
    settings = {
        "checkpoint": Path(request.checkpoint).name,  # the name only: a PNG must not show folders of this machine
        "label": label if label >= 0 else None,
        "guidance": request.guidance,
        "sampler": request.sampler,
        "evaluations": request.evaluations,
        "grid": request.grid,
        "eta": request.eta,
        "churn": request.churn,
        "rescale": request.rescale,
        "interval_low": request.interval_low,
        "seed": request.seed + i,
    }
    if request.interval_high != float("inf"):  # JSON has no infinity; without the key there is no upper limit
        settings["interval_high"] = request.interval_high
    return settings | steering_settings(request)


def steering_settings(request: Request) -> dict:
    """The settings of CLIP and classifier guidance, {} if both are off. Re-ranking needs none: the seed reproduces the kept candidate."""
    settings = {}
    if request.text and request.text_scale:
        settings |= {"text": request.text, "text_scale": request.text_scale, "text_through": request.text_through}
    if request.classifier_scale:
        settings["classifier_scale"] = request.classifier_scale
    if settings:
        settings["steer_low"] = request.steer_low
        if request.steer_high != float("inf"):
            settings["steer_high"] = request.steer_high
    return settings


def image_png(image: np.ndarray, request: Request, i: int, label: int) -> bytes:
    """uint8 (C, H, W) -> PNG at native size with the image's settings."""
    return png_settings.write(picture(image), image_settings(request, i, label))


def request_from_settings(settings: dict, classes: tuple[str, ...]) -> Request:
    """The request that reproduces the image of a PNG with these settings. classes: those of its checkpoint."""
    label = settings.get("label")
    fields = {key: value for key, value in settings.items() if key in settings_of(Request) and key != "label"}
    if label is not None and label >= len(classes) and label >= 0:
        raise ValueError(
            f"the image has class {label}, but the checkpoint {settings.get('checkpoint')} on this machine has {len(classes)} classes"
        )
    name = "none" if label is None else "any" if label < 0 else classes[label]
    return Request(n=1, label=name, **fields)


def images_zip(pngs: Iterable[bytes]) -> bytes:
    """A ZIP of PNG files, named 00000.png, 00001.png, ..."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, data in enumerate(pngs):
            archive.writestr(f"{i:05d}.png", data)
    return buffer.getvalue()


def frame_grid(images: np.ndarray, columns: int, pad: int = 1) -> Image.Image:
    """uint8 (N, C, H, W) -> a grid at native size, with grey lines of `pad` pixels between the images."""
    return render.grid(torch.from_numpy(images), columns, pad)


def grid_columns(n: int) -> int:
    """The number of columns of a nearly square grid of n images."""
    return max(int(np.ceil(n**0.5)), 1)


def frame_picture(frames: Iterable[Frame], columns: int, gap: int = 4) -> Image.Image:
    """The grids of x_t of one or two frames, then those of their predicted x0, from left to right, `gap` pixels apart."""
    frames = tuple(frames)
    panels = [frame_grid(v, columns) for v in (*(f.x for f in frames), *(f.x0 for f in frames))]
    w, h = panels[0].size
    canvas = Image.new("RGB", (len(panels) * (w + gap) - gap, h), (128, 128, 128))
    for k, panel in enumerate(panels):
        canvas.paste(panel, (k * (w + gap), 0))
    return canvas
