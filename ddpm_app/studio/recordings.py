"""Recordings: runs of the shipped models as small files, which the page plays without computing anything.

A recording NAME has a description, NAME.json, and the run itself, as the noise x_T and the predicted x0 of each level. DDIM's rule,
x0 + (r / s)(x - x0), then gives every x_t and the noise in it: the page takes the same steps as the sampler.

    pictures    NAME-noise.png: x_T / NOISE_SCALE, one cell for each picture; NAME.jpg: the predicted x0, a row of cells for each level
    points      NAME.bin: both, and the class of each point
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ddpm_app.diffusion.guidance import conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, start
from ddpm_app.diffusion.schedules import Schedule, from_vp, make_schedule, sigma_grid, to_vp
from ddpm_app.files import write_atomically
from ddpm_app.flags import check_choice
from ddpm_app.images import render
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.toy.checkpoint import ToyModel, load_toy
from ddpm_app.toy.playground import Plane
from ddpm_app.toy.points import load
from ddpm_app.toy.sweeps import normal

STEPS = 36
BLOCK = 8  # pixels: a JPEG's blocks must not cross two cells
QUALITY = 92  # of the JPEGs
NOISE_SCALE = 4  # x_T is stored divided by this: then six in 100,000 of its numbers lie outside [-1, 1]
POINTS = 1000


def levels(schedule: Schedule, steps: int) -> dict:
    """The numbers of the levels that DDIM visits in equal steps of t, as exact as the page shows them; t counts from 1, as in papers."""
    sigmas = sigma_grid(schedule, steps)
    t = [round(float(schedule.sigma_to_t(sigma)) + 1, 2) if sigma else 0.0 for sigma in sigmas]
    return {"steps": steps, "t": t, "sigma": [float(f"{sigma:.6g}") for sigma in sigmas.tolist()]}


def cell_row(images: np.ndarray) -> np.ndarray:
    """uint8 (N, C, H, W) -> (cell, N cell, C) side by side, each padded to whole JPEG blocks with its own last pixels."""
    padding = -images.shape[-1] % BLOCK
    padded = np.pad(images, ((0, 0), (0, 0), (0, padding), (0, padding)), mode="edge")
    return np.concatenate(list(padded.transpose(0, 2, 3, 1)), axis=1)


def picture(rows: Sequence[np.ndarray], format: str = "jpeg") -> bytes:
    """Rows of cells, one below the other, as a grey or colour JPEG without reduced colour (4:4:4), or as a PNG."""
    pixels = np.concatenate(list(rows))
    return render.encode(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), format, QUALITY)


# -- pictures -------------------------------------------------------------------------------------------------------------


class Pictures(NamedTuple):
    """What a recording of pictures shows.

    checkpoint   the model
    labels       the class of each picture
    guidance     its scale
    """

    checkpoint: str
    labels: tuple[str, ...]
    guidance: float


PICTURES = {
    "photos": Pictures("cifar10", ("airplane", "automobile", "bird", "dog", "horse", "ship", "frog", "deer", "truck"), 2.0),
    "digits": Pictures("mnist", tuple("370528649"), 1.5),
}


def choose_seeds(studio: Studio, what: Pictures, candidates: int) -> list[int]:
    """For each picture, the one of the first `candidates` seeds whose picture the classifier is surest of."""
    requests = [
        Request(checkpoint=what.checkpoint, label=label, n=1, guidance=what.guidance, evaluations=10, candidates=candidates)
        for label in what.labels
    ]
    return [int(studio.ranked(request).chosen[0]) for request in requests]


def describe(studio: Studio, what: Pictures, seeds: Sequence[int], steps: int = STEPS) -> dict:
    """The description of a recording or of a live run, without its pixels."""
    config = studio.checkpoint(what.checkpoint).config
    size = config.network.image_shape[-1]
    return {
        "kind": "pictures",
        "checkpoint": what.checkpoint,
        "sampler": "ddim",
        "guidance": what.guidance,
        "size": size,
        "cell": size + -size % BLOCK,
        "pictures": [{"label": label, "seed": seed} for label, seed in zip(what.labels, seeds)],
        **levels(make_schedule(**config.schedule), steps),
    }


def noise_png(studio: Studio, what: Pictures, seeds: Sequence[int]) -> bytes:
    """x_T of these seeds as a PNG: what a sampler starts from, divided by NOISE_SCALE."""
    network = studio.checkpoint(what.checkpoint).config.network
    sigmas = torch.ones(1, dtype=torch.float64)  # every level begins with the same numbers
    x_T = to_vp(start(seeds, (len(seeds), *network.image_shape), sigmas)[0], sigmas[0])
    return picture([cell_row(to_uint8(x_T / NOISE_SCALE).numpy())], "png")


def record_pictures(studio: Studio, name: str, what: Pictures, seeds: Sequence[int], folder: Path, steps: int = STEPS) -> None:
    """Denoise one picture for each label from its seed, and write NAME.json, NAME-noise.png and NAME.jpg."""
    fixed = {"checkpoint": what.checkpoint, "n": 1, "guidance": what.guidance, "sampler": "ddim", "evaluations": steps}
    runs = [studio.sample(Request(label=label, seed=seed, **fixed)) for label, seed in zip(what.labels, seeds, strict=True)]
    moments = [np.concatenate([frame.x0 for frame in frames]) for frames in zip(*runs)]
    write_atomically(folder / f"{name}-noise.png", noise_png(studio, what, seeds))
    write_atomically(folder / f"{name}.jpg", picture([cell_row(x0) for x0 in moments[1:]]))  # the first frame has no prediction yet
    write_description(folder / f"{name}.json", describe(studio, what, seeds, steps))


def guess_jpeg(x0: np.ndarray) -> bytes:
    """The predicted x0 of one level, uint8 (N, C, H, W), as a JPEG of one row."""
    return picture([cell_row(x0)])


def animation_frames(noise: bytes, guesses: Sequence[bytes], description: dict) -> tuple[list[Image.Image], list[str]]:
    """The x_t of each level as a grid of three columns, and a caption for each.

    noise: the PNG of x_T. guesses: JPEGs of one or more rows, together the predicted x0 of each level."""
    cell, size, sigma, n = description["cell"], description["size"], description["sigma"], len(description["pictures"])
    x_t = NOISE_SCALE * to_model(_cells(noise, cell, n)[0])
    levels_there = [x0 for data in guesses for x0 in to_model(_cells(data, cell, n))]
    moments = [x_t]
    for x0, s, r in zip(levels_there, sigma, sigma[1:]):
        x = from_vp(moments[-1], torch.tensor(s))
        moments.append(to_vp(x0 + r / s * (x - x0), r))
    grids = [render.grid(to_uint8(x)[..., :size, :size], 3) for x in moments]
    return grids, [f"t = {t:.0f}, step {k} of {description['steps']}" for k, t in enumerate(description["t"][: len(grids)])]


def _cells(data: bytes, cell: int, n: int) -> torch.Tensor:
    """uint8 (rows, n, C, cell, cell) of a picture made of cells."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    return pixels.reshape(-1, cell, n, cell, 3).permute(0, 2, 4, 1, 3)


# -- points ---------------------------------------------------------------------------------------------------------------


def cloud(model: ToyModel, seed: int, steps: int = STEPS, n: int = POINTS) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Denoise n points with DDIM in equal steps of t. Places are int16 thousandths of the half side of the square that Plane shows.

    Returns the places (n, 2) of x_t at each level, those of the x0 predicted there (one fewer), and the class (n,) of each end."""
    data = load(**model.data)
    plane, sigmas = Plane(data), sigma_grid(model.denoiser.schedule, steps)
    x, noise = start(normal(seed), (n, data.dim), sigmas)

    def places(x: torch.Tensor) -> np.ndarray:
        return (1000 * plane.flat(x)).clamp(-32_000, 32_000).round().numpy().astype("<i2")

    x_t, x0 = [places(to_vp(x, sigmas[0]))], []
    with torch.no_grad():
        for step in SAMPLERS["ddim"].steps(conditioned(model.denoiser, None), x, sigmas, noise):
            x_t.append(places(to_vp(step.x, step.sigma_next)))
            x0.append(places(step.x0))
    classes = data.exact().mixture.class_posterior(step.x, 0.02).argmax(1).numpy().astype(np.uint8)
    return x_t, x0, classes


def describe_points(model: ToyModel, seed: int, steps: int = STEPS, n: int = POINTS) -> dict:
    """The description of a recording or of a live run of points, without their places."""
    return {
        "kind": "points",
        "checkpoint": f"toy/{model.name}",
        "sampler": "ddim",
        "points": n,
        "seed": seed,
        **levels(model.denoiser.schedule, steps),
    }


def record_points(model: ToyModel, name: str, folder: Path, seed: int = 0, steps: int = STEPS, n: int = POINTS) -> None:
    """Denoise n points and write NAME.json and NAME.bin.

    NAME.bin is zlib-compressed: n bytes with the arm of each point, then int16 differences, first all low bytes, then all high bytes:
    x_T (n, 2), and for each level the change of the predicted x0 (n, 2) since the level before."""
    x_t, x0, classes = cloud(model, seed, steps, n)
    guesses = np.diff(np.stack([np.zeros_like(x0[0]), *x0]), axis=0)
    numbers = np.concatenate([x_t[0][None], guesses]).astype("<i2")
    halves = numbers.reshape(-1).view(np.uint8).reshape(-1, 2).T
    write_atomically(folder / f"{name}.bin", zlib.compress(classes.tobytes() + halves.tobytes(), 9))
    write_description(folder / f"{name}.json", describe_points(model, seed, steps, n))


# -- all of them ----------------------------------------------------------------------------------------------------------


def write_description(file: Path, description: dict) -> None:
    write_atomically(file, json.dumps(description, separators=(",", ":")) + "\n")


def record(names: Sequence[str], folder: Path, candidates: int, report: Callable[[str], None], studio: Studio | None = None) -> None:
    """Record these of "photos", "digits" and "points" (all if names is empty). Raises ValueError for another name."""
    known = (*PICTURES, "points")
    for name in names or known:
        check_choice("recording", name, known)
    studio = studio or Studio([SHIPPED], device="cpu", precision="fp32")
    for name in names or known:
        if name == "points":
            record_points(load_toy(SHIPPED / "toy" / "spirals"), name, folder)
        else:
            seeds = choose_seeds(studio, PICTURES[name], candidates)
            report(f"{name}: seeds {', '.join(map(str, seeds))}")
            record_pictures(studio, name, PICTURES[name], seeds, folder)
        report(f"{name}: {sum(f.stat().st_size for f in folder.glob(f'{name}[-.]*')) / 1e6:.2f} MB in {folder}")
