"""The way between two images or two seeds: a PathRequest in, frames out."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import clipped
from ddpm_app.diffusion.interpolation import blend, code_levels, encode, noised_between, slerp
from ddpm_app.diffusion.samplers import SAMPLERS, SeededNoise
from ddpm_app.diffusion.schedules import SIGMA_CAP, from_vp, sigma_grid, to_vp
from ddpm_app.flags import check_choice
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.studio.compression import _checked, _whole, class_index, shape_of
from ddpm_app.studio.request import SEED_LIMIT
from ddpm_app.studio.studio import MAX_BATCH, Studio

WAYS = {
    "ode": "two images, encoded by the probability-flow ODE",
    "noise": "two images, noised to t",
    "seeds": "two seeds",
}


@dataclass(frozen=True)
class PathRequest:
    """way: one of WAYS. first, second: each end's class (name, index or "none"). guidance: s of the way back. frames: points from end to
    end, both included. sampler, evaluations: of the way back; the way up takes as many. t: the textbook's, for "noise". seed, seed_b:
    the two seeds; for "noise" the noise of both images where they are equal, else each one's own."""

    checkpoint: str = ""
    way: str = "seeds"
    first: str = "none"
    second: str = "none"
    guidance: float = 1.0
    frames: int = 17
    sampler: str = "heun"
    evaluations: int = 39
    t: int = 500
    seed: int = 0
    seed_b: int = 1

    def __post_init__(self):
        check_choice("way", self.way, WAYS)
        check_choice("sampler", self.sampler, SAMPLERS)
        for name, low, high in (("frames", 2, MAX_BATCH), ("evaluations", 3, 1000), ("t", 1, 100_000)):
            _whole(name, getattr(self, name), low, high)
        for name in ("seed", "seed_b"):
            _whole(name, getattr(self, name), 0, SEED_LIMIT)
        g = self.guidance
        if isinstance(g, bool) or not isinstance(g, (int, float)) or not 0 <= g <= 20:
            raise ValueError(f"guidance is {g!r}; a number from 0 to 20 is accepted")
        if self.way == "ode" and SAMPLERS[self.sampler].stochastic:
            raise ValueError(f"{self.sampler} draws noise on its way, so an encoded image would not come back; heun and dpmpp-2m draw none")

    @property
    def weights(self) -> Tensor:
        """(frames,) from 0, the first end, to 1, the second."""
        return torch.linspace(0, 1, self.frames, dtype=torch.float64)

    def as_command(self, ends: str) -> str:
        """The command line that makes the same images; ends: its flags for the two pictures, empty for seeds."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        always = ("checkpoint", "way", "first", "second")  # a test image's own class is the command's default
        changed = {k: v for k, v in vars(self).items() if v != default[k] or k in always}
        flags = " ".join(f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in changed.items())
        return " ".join(f"python -m ddpm_app interpolate {flags} {ends} --precision auto --out path.png path.webp".split())


@dataclass(frozen=True)
class Passage:
    """Where an interpolation stands: "encode" or "decode", i of n moves; images uint8: the two ends' x_t on the way up, the predicted x0 of
    all frames on the way down; sigma: the level reached. error: root mean squared error of the two ends against their images, in grey
    levels, at the end of "ode" (else None)."""

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
    """From one end to the other in `frames` images; pictures: the ends, uint8 (2, C, H, W), unless they are seeds, whose two ends are what
    Studio.sample makes of them with the same settings."""
    config = studio.checkpoint(request.checkpoint).config
    if (pictures is None) != (request.way == "seeds"):
        raise ValueError("give two images" if pictures is None else "two seeds are the ends: give no images")
    if pictures is not None and (len(pictures) != 2 or _checked(studio, request.checkpoint, pictures) is None):
        raise ValueError(f"{len(pictures)} images were given; the ends are 2")
    labels = tuple(class_index(studio, config, name) for name in (request.first, request.second))
    denoiser, sampler = studio.denoiser(studio.checkpoint(request.checkpoint)), SAMPLERS[request.sampler]
    steps, shape, weights = sampler.steps_for(request.evaluations), shape_of(config), request.weights
    denoise = blend(denoiser, labels, weights.to(studio.device, torch.float32), request.guidance)
    denoise = denoise if request.way == "ode" else clipped(denoise)  # unclipped, the way up and down is one smooth equation
    seeds = [request.seed, request.seed_b]
    if request.way == "noise":
        if request.t > denoiser.schedule.T:
            raise ValueError(f"t is {request.t}; it lies between 1 and {denoiser.schedule.T}")
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
    for step in studio.turns(sampler.steps(denoise, x.to(studio.device), sigmas, noise)):
        images = to_uint8(step.x if step.i + 1 == step.n else step.x0).cpu()
        error = None
        if request.way == "ode" and step.i + 1 == step.n:
            ends = images[[0, -1]].double() - pictures.double()
            error = tuple(float(v) for v in ends.square().flatten(1).mean(1).sqrt())
        yield Passage("decode", step.i + 1, step.n, float(step.sigma_next), images.numpy(), error)


def _encoded(studio: Studio, denoiser: Denoiser, x0: Tensor, labels, steps: int) -> Generator[Passage, None, Tensor]:
    """The two images' unit-variance codes, each under its class, unguided."""
    levels = code_levels(denoiser.schedule, steps)
    denoise = blend(denoiser, labels, torch.tensor([0.0, 1.0], device=studio.device))
    step = None
    for step in studio.turns(encode(denoise, x0.to(studio.device), levels)):
        yield Passage("encode", step.i + 1, step.n, float(step.sigma_next), to_uint8(to_vp(step.x, step.sigma_next)).cpu().numpy())
    return to_vp(step.x, levels[-1]).cpu()
