"""Guidance: denoisers in, a denoiser out. One convention everywhere: D = D_weak + s (D_strong - D_weak), and s = 1 is off.

The textbook's (1 + w) conditional - w unconditional (Ho & Salimans 2022) is s = 1 + w. Because x0, eps and v are affine in
each other at a fixed x and sigma, extrapolating the predicted x0 is the same as extrapolating the predicted noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import SIGMA_DATA, Denoiser
from ddpm_app.diffusion.schedules import expand

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


def classifier_guided(
    denoise: Denoise, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoise:
    """Classifier guidance (Dhariwal & Nichol 2021): D + s sigma^2 grad_x ln p(y | x, sigma).

    Tweedie's formula in x = x0 + sigma eps is D = x + sigma^2 grad_x ln p(x, sigma); Bayes' rule adds grad_x ln p(y | x, sigma) to the
    score, so the conditional denoiser is D + sigma^2 grad_x ln p(y | x, sigma), and s sharpens p(y | .) to its s-th power. In noise
    it is their eps - s sigma grad_x ln p.

    log_prob: (x (B, *S), sigma ()) -> (B,), differentiable in x, each entry from its own sample alone; it must know noise
    scale:    s; 0 is off, 1 is Bayes' rule
    interval: guide only where low < sigma <= high
    """
    low, high = interval

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        if not scale or not low < float(sigma) <= high:
            return denoise(x, sigma)
        _, gradient = _gradient(lambda y, level: (None, log_prob(y, level)), x, sigma)
        return denoise(x, sigma) + expand(scale * torch.as_tensor(sigma, dtype=torch.float64) ** 2, x) * gradient

    return guided


def similarity_guided(
    denoise: Denoise,
    score: Callable[[Tensor], Tensor],
    scale: float,
    interval: tuple[float, float] = (0.0, math.inf),
    through: str = "denoiser",
) -> Denoise:
    """Steer by a score of clean samples, e.g. CLIP's similarity to a text, through the predicted x0: p(y | x0) ~ exp(s score(x0)).

    What x tells of y is the mean of that over p(x0 | x). To first order it is exp(s score(D(x))) (Chung et al. 2023), and
    classifier_guided's formula becomes D + s sigma^2 J^T g with g = grad score at D and J = dD/dx. Two ways to J:
    through="denoiser" differentiates the denoiser itself; sigma^2 J is the covariance of x0 given x, and through="x0" puts in what it is
    for white data of standard deviation SIGMA_DATA, v = sigma^2 sd^2 / (sigma^2 + sd^2), which costs no pass back through the denoiser
    (half the time), but moves pixels as if they were independent: what only the score sees, where the denoiser's J keeps to pictures.

    score:    (x0 (B, *S)) -> (B,), differentiable, each entry from its own sample alone; give clipped(denoise) if it knows [-1, 1] only
    scale:    s; 0 is off
    interval: guide only where low < sigma <= high
    """
    if through not in ("x0", "denoiser"):
        raise ValueError(f"the gradient goes through {through!r}; x0 or denoiser is accepted")
    low, high = interval

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        if not scale or not low < float(sigma) <= high:
            return denoise(x, sigma)
        square = torch.as_tensor(sigma, dtype=torch.float64) ** 2
        if through == "denoiser":

            def scored(y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
                x0 = denoise(y, level)
                return x0, score(x0)

            x0, gradient = _gradient(scored, x, sigma)
        else:
            x0 = denoise(x, sigma)
            _, gradient = _gradient(lambda y, level: (None, score(y)), x0, sigma)
            square = square * SIGMA_DATA**2 / (square + SIGMA_DATA**2)
        return x0 + expand(scale * square, x) * gradient

    return guided


def _gradient(function: Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor]], x: Tensor, sigma: Tensor) -> tuple[Tensor | None, Tensor]:
    """function(x, sigma) gives (something to keep, value (B,)); returns what is to keep and d value[i] / d x[i] (B, *S) in x's dtype.

    Samplers run under inference_mode, whose tensors know no gradients; copies made outside it do."""
    with torch.inference_mode(False), torch.enable_grad():
        y = x.detach().clone().requires_grad_(True)
        keep, value = function(y, torch.as_tensor(sigma).detach().clone())
        if value.shape != x.shape[:1]:
            raise ValueError(f"a guide gives one value a sample, ({len(x)},), not {tuple(value.shape)}")
        (gradient,) = torch.autograd.grad(value.sum(), y)
    return None if keep is None else keep.detach(), gradient.to(x.dtype)


def of_class(log_posterior: Callable[[Tensor, Tensor], Tensor], label: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """log_prob for classifier_guided, from log_posterior: (x, sigma) -> (B, K) and the class of each sample, label (B,) int64."""
    return lambda x, sigma: log_posterior(x, sigma).gather(1, label[:, None])[:, 0]


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keep the predicted x0 where images live. Belongs outside guidance: clipped(cfg(...))."""
    return lambda x, sigma: denoise(x, sigma).clamp(low, high)
