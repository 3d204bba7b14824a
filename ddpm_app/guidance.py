"""Guidance: denoisers in, a denoiser out. One convention everywhere: D = D_weak + s (D_strong - D_weak), and s = 1 is off.

The textbook's (1 + w) conditional - w unconditional (Ho & Salimans 2022) is s = 1 + w. Because x0, eps and v are affine in
each other at a fixed x and sigma, extrapolating the predicted x0 is the same as extrapolating the predicted noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Denoiser

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x (B, *S), sigma ()) -> predicted x0 (B, *S)


def conditioned(denoiser: Denoiser, label: Tensor | None) -> Denoise:
    """The plain conditional (label (B,) int64) or unconditional (None) denoiser as a function of (x, sigma)."""
    return lambda x, sigma: denoiser(x, sigma, label)


def cfg(
    denoiser: Denoiser,
    label: Tensor,
    scale: float,
    interval: tuple[float, float] = (0.0, math.inf),
    rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022); both predictions come from one pass over a doubled batch.

    label:    (B,) int64; the null label is the network's num_classes
    scale:    s; 1 is off (one pass), 0 is unconditional, above 1 pulls toward the class
    interval: guide only where low < sigma <= high, elsewhere s = 1 (Kynkaanniemi et al. 2024)
    rescale:  phi in [0, 1]; pull the standard deviation of the guided prediction back to the conditional's (Lin et al. 2023)
    """
    low, high = interval

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if scale == 1 or not low < float(sigma) <= high:
            return denoiser(x, sigma, label)
        if scale == 0:
            return denoiser(x, sigma, None)
        null = torch.full_like(label, denoiser.network.config.num_classes)
        both = denoiser(torch.cat([x, x]), sigma, torch.cat([label, null]))
        strong, weak = both.chunk(2)
        return _rescaled(torch.lerp(weak, strong, scale), strong, rescale)

    return denoise


def _rescaled(guided: Tensor, reference: Tensor, phi: float) -> Tensor:
    if not phi:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = reference.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
    return guided * (phi * ratio + (1 - phi))


def autoguide(strong: Denoise, weak: Denoise, scale: float, interval: tuple[float, float] = (0.0, math.inf)) -> Denoise:
    """Autoguidance (Karras et al. 2024): steer away from a weaker version of the same model, e.g. an earlier snapshot."""
    low, high = interval

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if scale == 1 or not low < float(sigma) <= high:
            return strong(x, sigma)
        return torch.lerp(weak(x, sigma), strong(x, sigma), scale)

    return denoise


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keep the predicted x0 where images live. Belongs outside guidance: clipped(cfg(...))."""
    return lambda x, sigma: denoise(x, sigma).clamp(low, high)
