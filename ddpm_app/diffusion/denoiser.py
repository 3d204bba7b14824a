"""Prediction types: what the output of a network means. Each type is a set of three coefficients (Karras et al. 2022, section 5).

With the network F, the denoiser D(x, sigma) = c_skip x + c_out F(c_in x, t(sigma), label) predicts x0 from x = x0 + sigma eps.
The training loss is the mean squared error of F against (x0 - c_skip x) / c_out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm_app.diffusion.schedules import Schedule, add_noise, expand
from ddpm_app.flags import check_choice

SIGMA_DATA = 0.5  # standard deviation of image data in [-1, 1] (EDM)


class Precond(NamedTuple):
    """The coefficients of a prediction type at noise level sigma. Each has the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def _eps(s: Tensor) -> Precond:  # F predicts the noise (Ho et al. 2020, L_simple)
    return Precond(torch.ones_like(s), -s, torch.rsqrt(1 + s * s))


def _v(s: Tensor) -> Precond:  # F predicts v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022)
    return Precond(1 / (1 + s * s), -s * torch.rsqrt(1 + s * s), torch.rsqrt(1 + s * s))


def _x0(s: Tensor) -> Precond:  # F predicts the clean image
    return Precond(torch.zeros_like(s), torch.ones_like(s), torch.rsqrt(1 + s * s))


def _edm(s: Tensor) -> Precond:  # F has unit-variance inputs and targets (Karras et al. 2022, table 1)
    total = s * s + SIGMA_DATA**2
    return Precond(SIGMA_DATA**2 / total, s * SIGMA_DATA * torch.rsqrt(total), torch.rsqrt(total))


PREDICTION_TYPES: dict[str, Callable[[Tensor], Precond]] = {"eps": _eps, "v": _v, "x0": _x0, "edm": _edm}


def _weight_uniform(s: Tensor, prediction_type: str) -> Tensor:
    return torch.ones_like(s)


def _weight_x0_snr(s: Tensor, prediction_type: str, snr_weight: Callable[[Tensor], Tensor]) -> Tensor:
    """The weight of the squared error of F that gives the squared error of x0 the weight w(SNR): |x0 error|^2 = c_out^2 |F error|^2."""
    return snr_weight(1 / (s * s)) * PREDICTION_TYPES[prediction_type](s).c_out ** 2


WEIGHTS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "uniform": _weight_uniform,  # the mean squared error
    "min-snr-5": lambda s, prediction_type: _weight_x0_snr(s, prediction_type, lambda snr: snr.clamp(max=5.0)),  # Hang et al. 2023
    "truncated-snr": lambda s, prediction_type: _weight_x0_snr(s, prediction_type, lambda snr: snr.clamp(min=1.0)),  # Salimans & Ho 2022
}


@dataclass(frozen=True)
class Denoiser:
    """A network with its schedule and prediction type. Calling it predicts x0.

    network:         F(x_in (B, *S), t (B,), label (B,) int64 or None) -> (B, *S)
    schedule:        the noise levels of its training; F gets the time t of a level
    prediction_type: one of PREDICTION_TYPES
    Raises ValueError for another prediction type.
    """

    network: nn.Module
    schedule: Schedule
    prediction_type: str

    def __post_init__(self):
        check_choice("prediction type", self.prediction_type, PREDICTION_TYPES)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The predicted x0 (B, *S) of x (B, *S) float at sigma () or (B,). label: (B,) int64, None for the null class."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64).cpu()
        # In float64: at sigma = 160 the float32 c_skip of v prediction has only five correct digits.
        c = PREDICTION_TYPES[self.prediction_type](sigma)
        t = self.schedule.sigma_to_t(sigma).to(x.device, torch.float32).expand(len(x))
        output = self.network(expand(c.c_in, x) * x, t, label)
        return expand(c.c_skip, x) * x + expand(c.c_out, x) * output.to(x.dtype)

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor | None = None, weight: str = "uniform") -> Tensor:
        """The training loss of each sample, (B,).

        x0, eps: (B, *S) float32, clean samples and their unit noise
        t:       (B,) int64 in [0, T-1], on the device of x0
        label:   (B,) int64, None for the null class
        weight:  one of WEIGHTS"""
        sigma = self._levels(x0.device)[t]
        c = PREDICTION_TYPES[self.prediction_type](sigma)
        x = add_noise(x0, sigma, eps)
        output = self.network(expand(c.c_in, x) * x, t, label)
        if self.prediction_type == "eps":  # (x0 - x) / -sigma without its cancellation
            target = eps
        elif self.prediction_type == "v":
            target = (eps - expand(sigma, x0) * x0) * expand(c.c_in, x0)
        else:
            target = (x0 - expand(c.c_skip, x) * x) / expand(c.c_out, x)
        error = (output.float() - target).square().flatten(1).mean(1)
        return error * WEIGHTS[weight](sigma, self.prediction_type)

    def _levels(self, device: torch.device) -> Tensor:
        cache = self.__dict__.setdefault("_sigma_on", {})
        if device not in cache:
            cache[device] = self.schedule.sigma.to(device, torch.float32)
        return cache[device]
