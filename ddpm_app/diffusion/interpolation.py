"""Interpolation between two images or two seeds in noise space.

The code of an image is the end point of the probability-flow ODE (Song et al. 2021) that starts at the image. This is DDIM inversion,
solved here by Heun's method (second order). Codes are interpolated on a great circle and decoded by the same ODE.
Ho et al. 2020 (section 4.4, figure 8) add noise of time t to both images instead, and denoise a mixture of the two.
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

PARALLEL = 1e-6  # radians; two directions with a smaller angle count as equal


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985): directions on the shorter great circle from a to b; the norm changes linearly.

    a, b:    (*S) float
    weights: (K,); 0 gives exactly a, 1 exactly b
    Returns (K, *S). If |a| = |b|, which nearly holds for Gaussian noise, every point has this norm; the middle of a straight line would
    be shorter by sqrt(2). Raises ValueError for different shapes, a zero vector, and opposite directions.
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
    """K mixtures of two noised images at level sigma, (K, *S), in x = x0 + sigma eps: images interpolated linearly, plus noise.

    x0:      (2, *S) clean images
    eps:     (2, *S) their unit noise
    weights: (K,); 0 is the first image, 1 the second
    If the two noises are equal, all mixtures share this noise; the result is Ho et al.'s straight line between the two x_t. If they
    differ, they are interpolated by slerp, because a straight line between them would have too small a variance.
    """
    w = weights.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    noise = eps[:1].expand(len(weights), *eps.shape[1:]) if torch.equal(eps[0], eps[1]) else slerp(eps[0], eps[1], weights)
    return torch.lerp(x0[:1], x0[1:], w) + sigma * noise


def blend(denoiser: Denoiser, labels: tuple[int, int], weights: Tensor, scale: float = 1.0) -> Denoise:
    """A denoiser of K images whose predicted x0 is interpolated linearly between those for two classes.

    labels:  the two classes, -1 for none
    weights: (K,); 0 is the first class, 1 the second
    scale:   of classifier-free guidance, s
    Two different classes need two evaluations per call, equal ones need one.
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
    """The increasing noise levels of encode(), (steps,) float64: a sampling grid in reverse, without its 0. kind: one of GRIDS.

    Raises ValueError for fewer than 2 steps."""
    if steps < 2:
        raise ValueError(f"{steps} steps; encoding takes 2 or more")
    return sigma_grid(schedule, steps, kind)[:-1].flip(0)


def encode(denoise: Denoise, x0: Tensor, levels: Tensor) -> Iterator[Step]:
    """Solve the probability-flow ODE from images to noise by Heun's method. The code is the x (B, *S) of the last step, at levels[-1].

    x0: (B, *S) in model space, used as the point at levels[0], where the noise is below one grey level.
    """
    return heun(denoise, x0, levels)


def decode(denoise: Denoise, x: Tensor, levels: Tensor) -> Iterator[Step]:
    """Solve the probability-flow ODE from a code x (B, *S) back to sigma = 0. With small steps this is the inverse of encode()."""
    return heun(denoise, x, torch.cat([levels.flip(0), levels.new_zeros(1)]))
