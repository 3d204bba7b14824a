"""Between two images or two seeds: codes in noise space, the great circle between them, and the way back.

An image's code is where the probability-flow ODE (Song et al. 2021) takes it: DDIM inversion, solved to second order by Heun's method.
Ho et al. 2020 (section 4.4, figure 8) noise both images to a level t instead and denoise a mixture of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import Denoise, cfg
from ddpm_app.diffusion.samplers import Step, heun
from ddpm_app.diffusion.schedules import Schedule, expand, sigma_grid

PARALLEL = 1e-6  # radians: below this two directions are one


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985): the shorter great circle between two directions, the norm going evenly from |a| to |b|.

    a, b (*S) float; weights (K,), 0 is a and 1 is b, both returned exactly -> (K, *S). Where |a| = |b|, as nearly of Gaussian noise, every
    point keeps that norm; the straight line's middle would be shorter by sqrt(2). Raises ValueError for zero vectors and opposite ones.
    """
    if a.shape != b.shape:
        raise ValueError(f"codes of shapes {tuple(a.shape)} and {tuple(b.shape)}; two of one shape are accepted")
    u, v, w = a.double().flatten(), b.double().flatten(), weights.double().to(a.device)
    norms = u.norm(), v.norm()
    if not float(min(norms)) > 0:
        raise ValueError("a code of zero length has no direction to interpolate")
    u, v = u / norms[0], v / norms[1]
    theta = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # exact for small and large angles, where arccos loses its digits
    if float(theta) > math.pi - PARALLEL:
        raise ValueError("the two codes point in opposite directions: no great circle between them is the shortest")
    if float(theta) < PARALLEL:
        direction = torch.lerp(u, v, w[:, None])
    else:
        direction = (torch.sin((1 - w) * theta)[:, None] * u + torch.sin(w * theta)[:, None] * v) / torch.sin(theta)
    out = (direction * torch.lerp(norms[0], norms[1], w)[:, None]).to(a.dtype).view(-1, *a.shape)
    out[w == 0], out[w == 1] = a, b
    return out


def noised_between(x0: Tensor, sigma: float, eps: Tensor, weights: Tensor) -> Tensor:
    """The mixture at level sigma of two noised images: the line between them plus noise of that level, (K, *S), in x = x0 + sigma eps.

    x0 (2, *S); eps (2, *S): unit noise of each. Equal noises are shared by all, and then this is Ho et al.'s straight line between the
    two x_t; for different ones the noise turns along the great circle, because their straight line would carry too little of it.
    """
    w = weights.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    noise = eps[:1].expand(len(weights), *eps.shape[1:]) if torch.equal(eps[0], eps[1]) else slerp(eps[0], eps[1], weights)
    return torch.lerp(x0[:1], x0[1:], w) + sigma * noise


def blend(denoiser: Denoiser, labels: tuple[int, int], weights: Tensor, scale: float = 1.0) -> Denoise:
    """The denoiser of K images between two classes: its predicted x0 goes evenly from the first class's to the second's.

    labels: -1 for none. weights (K,). scale: of guidance, s. One class costs one evaluation, two cost two.
    """

    def of(label: int) -> Denoise:
        if label < 0:
            return lambda x, sigma: denoiser(x, sigma, None)
        return lambda x, sigma: cfg(denoiser, torch.full((len(x),), label, device=x.device), scale)(x, sigma)

    first, second = of(labels[0]), of(labels[1])
    if labels[0] == labels[1]:
        return first
    return lambda x, sigma: torch.lerp(first(x, sigma), second(x, sigma), expand(weights, x))


def code_levels(schedule: Schedule, steps: int, kind: str = "log-snr") -> Tensor:
    """Increasing levels that encode() climbs: those of a sampling grid, without its 0; (steps,) float64."""
    if steps < 2:
        raise ValueError(f"{steps} steps; encoding takes 2 or more")
    return sigma_grid(schedule, steps, kind)[:-1].flip(0)


def encode(denoise: Denoise, x0: Tensor, levels: Tensor) -> Iterator[Step]:
    """The probability-flow ODE from the image up to noise, by Heun's method; the last step's x (B, *S) at levels[-1] is the code.

    x0 (B, *S) in model space is taken for the point at levels[0], where the noise is below a grey level.
    """
    return heun(denoise, x0, levels)


def decode(denoise: Denoise, x: Tensor, levels: Tensor) -> Iterator[Step]:
    """Back down the same levels and to sigma = 0: encode()'s inverse as the steps become small."""
    return heun(denoise, x, torch.cat([levels.flip(0), levels.new_zeros(1)]))
