"""Guidance: functions that take a denoiser and return a guided denoiser.

Classifier-free guidance and autoguidance have one convention: D = D_weak + s (D_strong - D_weak), and s = 1 is off.
Ho & Salimans (2022) write (1 + w) conditional - w unconditional, so s = 1 + w. At a fixed x and sigma, x0, eps and v are affine
functions of each other. Extrapolating the predicted x0 therefore equals extrapolating the predicted noise.
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
    """The denoiser without guidance, as a function of (x, sigma). label: (B,) int64, None for the unconditional denoiser."""
    return lambda x, sigma: denoiser(x, sigma, label)


def cfg(
    denoiser: Denoiser,
    label: Tensor,
    scale: float,
    interval: tuple[float, float] = (0.0, math.inf),
    rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022). Both predictions come from one pass over a doubled batch.

    label:    (B,) int64; the null label is the network's num_classes
    scale:    s; 1 is off (one pass), 0 is unconditional, above 1 strengthens the class
    interval: guide only where low < sigma <= high; elsewhere s = 1 (Kynkaanniemi et al. 2024)
    rescale:  phi in [0, 1], how far the standard deviation of the guided prediction is set back to that of the conditional one
              (Lin et al. 2023)
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
    """Autoguidance (Karras et al. 2024): move away from the prediction of a weaker version of the same model, such as an earlier snapshot.

    scale: s; 1 is off. interval: guide only where low < sigma <= high."""
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

    For x = x0 + sigma eps, Tweedie's formula is D = x + sigma^2 grad_x ln p(x, sigma). Bayes' rule adds grad_x ln p(y | x, sigma) to the
    score, so the conditional denoiser is D + sigma^2 grad_x ln p(y | x, sigma). A scale s replaces p(y | x) by its s-th power. For the
    predicted noise this is eps - s sigma grad_x ln p, as in the paper.

    log_prob: (x (B, *S), sigma ()) -> (B,) ln p(y | x, sigma), differentiable in x; entry i may depend on sample i only. It must come
              from a classifier that was trained on noisy samples
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
    """Guidance by a score of clean samples, such as CLIP's similarity to a text. The score is applied to the predicted x0.

    The score defines p(y | x0) ~ exp(s score(x0)). p(y | x) is its mean over p(x0 | x), which is exp(s score(D(x))) to first order
    (Chung et al. 2023). The formula of classifier_guided becomes D + s sigma^2 J^T g, with g the gradient of the score at D and
    J = dD/dx. `through` chooses J:

    "denoiser": J by differentiating the denoiser. Changes follow the images that the denoiser knows.
    "x0":       sigma^2 J is the covariance of x0 given x; it is replaced by that of white noise data of standard deviation SIGMA_DATA,
                sigma^2 sd^2 / (sigma^2 + sd^2). Takes half the time, but changes pixels independently of each other, which raises
                the score more than it improves the image.

    score:    (x0 (B, *S)) -> (B,), differentiable; entry i may depend on sample i only. Pass clipped(denoise) if the score expects [-1, 1]
    scale:    s; 0 is off
    interval: guide only where low < sigma <= high
    Raises ValueError for another value of `through`.
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
    """(kept, d value[i] / d x[i] (B, *S) in x's dtype) for a function(x, sigma) that returns (kept, value (B,)).

    Samplers run under inference_mode, whose tensors have no gradients. Copies made outside inference_mode have them.
    Raises ValueError if value has another shape."""
    with torch.inference_mode(False), torch.enable_grad():
        y = x.detach().clone().requires_grad_(True)
        keep, value = function(y, torch.as_tensor(sigma).detach().clone())
        if value.shape != x.shape[:1]:
            raise ValueError(f"a guidance function returned the shape {tuple(value.shape)}; ({len(x)},), one value per sample, is accepted")
        (gradient,) = torch.autograd.grad(value.sum(), y)
    return None if keep is None else keep.detach(), gradient.to(x.dtype)


def of_class(log_posterior: Callable[[Tensor, Tensor], Tensor], label: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The log_prob argument of classifier_guided. log_posterior: (x, sigma) -> (B, K) log-probabilities. label: (B,) int64, the classes."""
    return lambda x, sigma: log_posterior(x, sigma).gather(1, label[:, None])[:, 0]


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clip the predicted x0 to the range of images. Apply it after guidance: clipped(cfg(...))."""
    return lambda x, sigma: denoise(x, sigma).clamp(low, high)
