"""Interpolation between two images or two seeds."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import clipped
from ddpm_app.diffusion.interpolation import blend, code_levels, encode, noised_between, slerp
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS, SAMPLERS, SeededNoise
from ddpm_app.diffusion.schedules import SIGMA_CAP, from_vp, sigma_grid, to_vp
from ddpm_app.flags import check, setting, write_flags
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.studio.compression import check_images
from ddpm_app.studio.request import SEED_LIMIT, check_is_denoiser
from ddpm_app.studio.studio import MAX_BATCH, Studio

WAYS = {
    "ode": "two images, encoded by the probability-flow ODE",
    "noise": "two images, noised to t",
    "seeds": "two seeds",
}


@dataclass(frozen=True)
class PathRequest:
    """Settings of an interpolation: each field with its help and what it accepts."""

    checkpoint: str = setting("", "name in checkpoints/ or runs/ (default: the one the page opens with)", always=True)
    way: str = setting("seeds", "; ".join(f"{name}: {text}" for name, text in WAYS.items()), choices=WAYS, always=True)
    first: str = setting("none", "class of the first end: a name, an index or none (default: the test image's own, else none)", always=True)
    second: str = setting("none", "class of the second end (default as for the first)", always=True)
    guidance: float = setting(1.0, "guidance scale s of decoding, 1 is off", low=0, high=20)
    frames: int = setting(17, "images from end to end, both ends included", low=2, high=MAX_BATCH)
    sampler: str = setting("heun", "sampling method of decoding", choices=GENERAL_SAMPLERS)
    evaluations: int = setting(39, "network evaluations of decoding; encoding takes as many", low=3, high=1000)
    t: int = setting(500, "of the way noise: the time t to which both images are noised", low=1, high=100_000)
    seed: int = setting(0, "seed of the first end", low=0, high=SEED_LIMIT)
    seed_b: int = setting(1, "seed of the second end; of the way noise, equal seeds share the noise", low=0, high=SEED_LIMIT)

    def __post_init__(self):
        check(self)
        if self.way == "ode" and SAMPLERS[self.sampler].stochastic:
            raise ValueError(f"{self.sampler} adds noise at each step, so it cannot decode an encoded image; heun and dpmpp-2m add none")

    @property
    def weights(self) -> Tensor:
        """(frames,) from 0 (the first end) to 1 (the second end)."""
        return torch.linspace(0, 1, self.frames, dtype=torch.float64)

    def as_command(self, ends: str) -> str:
        """The command line that produces the same images. ends: its flags for the two images, empty for seeds."""
        flags = shlex.join(write_flags(self))
        return " ".join(f"python -m ddpm_app interpolate {flags} {ends} --precision auto --out path.png path.webp".split())


@dataclass(frozen=True)
class Passage:
    """The state of an interpolation after one step.

    phase:  "encode" or "decode"
    i, n:   step i of n of the phase
    sigma:  noise level reached
    images: uint8; while encoding x_t of the two ends (2, C, H, W), while decoding the predicted x0 of all frames (frames, C, H, W)
    error:  root mean squared error of the two decoded ends against their images, in grey levels; only in the last state of way "ode"
    """

    phase: str
    i: int
    n: int
    sigma: float
    images: np.ndarray
    error: tuple[float, float] | None = None

    @property
    def done(self) -> bool:
        return self.phase == "decode" and self.i == self.n


def interpolate(studio: Studio, request: PathRequest, pictures: Tensor | None = None) -> Iterator[Passage]:
    """Interpolate in request.frames images, both ends included. Raises ValueError for images or classes that do not fit.

    pictures: the two ends, uint8 (2, C, H, W); None for way "seeds", whose ends equal Studio.sample of the two seeds
    """
    config = studio.checkpoint(request.checkpoint).config
    if request.way == "ode":
        check_is_denoiser(config, "the probability flow of an image")
    if (pictures is None) != (request.way == "seeds"):
        raise ValueError(
            f"way {request.way!r} needs two images" if pictures is None else "way 'seeds' accepts no images; 'ode' and 'noise' take two"
        )
    if pictures is not None and (len(pictures) != 2 or check_images(studio, request.checkpoint, pictures) is None):
        raise ValueError(f"{len(pictures)} images were given; 2 are accepted")
    labels = tuple(studio.class_index(config, name) for name in (request.first, request.second))
    checkpoint, sampler = studio.checkpoint(request.checkpoint), SAMPLERS[request.sampler]
    denoiser = studio.sampling_denoiser(checkpoint) if request.way == "seeds" else studio.denoiser(checkpoint)
    steps, shape, weights = sampler.steps_for(request.evaluations), config.network.image_shape, request.weights
    denoise = blend(denoiser, labels, weights.to(studio.device, torch.float32), request.guidance)
    denoise = (
        denoise if request.way == "ode" else clipped(denoise)
    )  # encoding and decoding solve one smooth equation, which clipping would break
    seeds = [request.seed, request.seed_b]
    if request.way == "noise":
        if request.t > denoiser.schedule.T:
            raise ValueError(f"t is {request.t}; a whole number from 1 to {denoiser.schedule.T} is accepted")
        sigmas = sigma_grid(denoiser.schedule, steps, sampler.grid, min(float(denoiser.schedule.sigma[request.t - 1]), SIGMA_CAP))
        eps = SeededNoise(seeds)(torch.empty(2, *shape))
        x = noised_between(to_model(pictures), float(sigmas[0]), eps, weights)
    else:
        sigmas = sigma_grid(denoiser.schedule, steps, "log-snr" if request.way == "ode" else sampler.grid)
        if request.way == "seeds":
            codes = SeededNoise(seeds)(torch.empty(2, *shape))
        else:
            codes = yield from _encoded(studio, denoiser, to_model(pictures), labels, max((request.evaluations + 1) // 2, 2))
        x = from_vp(slerp(codes[0], codes[1], weights), sigmas[0])
    noise = SeededNoise([request.seed] * request.frames)
    for step in studio.exclusively(sampler.steps(denoise, x.to(studio.device), sigmas, noise)):
        images = to_uint8(step.x if step.i + 1 == step.n else step.x0).cpu()
        error = None
        if request.way == "ode" and step.i + 1 == step.n:
            ends = images[[0, -1]].double() - pictures.double()
            error = tuple(float(v) for v in ends.square().flatten(1).mean(1).sqrt())
        yield Passage("decode", step.i + 1, step.n, float(step.sigma_next), images.numpy(), error)


def _encoded(studio: Studio, denoiser: Denoiser, x0: Tensor, labels, steps: int) -> Generator[Passage, None, Tensor]:
    """Encode two images, each with its class and without guidance. Returns their codes, (2, C, H, W) of unit variance."""
    levels = code_levels(denoiser.schedule, steps)
    denoise = blend(denoiser, labels, torch.tensor([0.0, 1.0], device=studio.device))
    step = None
    for step in studio.exclusively(encode(denoise, x0.to(studio.device), levels)):
        yield Passage("encode", step.i + 1, step.n, float(step.sigma_next), to_uint8(to_vp(step.x, step.sigma_next)).cpu().numpy())
    return to_vp(step.x, levels[-1]).cpu()
