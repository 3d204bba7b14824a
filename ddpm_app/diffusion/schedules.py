"""Noise schedules (the levels a network was trained on) and sampling grids (the levels a sampler visits).

All code uses the noise level sigma of x = x0 + sigma * eps. The variance-preserving form of Ho et al. 2020 is
x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps = x / sqrt(1 + sigma^2), with alpha_bar = 1 / (1 + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ddpm_app.diffusion.names import check_schedule
from ddpm_app.flags import check_choice

SIGMA_CAP = 160.0  # no sampling grid goes above it: an image is pure noise there. The cosine schedule ends at 2e4


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a discrete diffusion process.

    name:   one of SCHEDULES
    sigma:  (T,) float64 on the CPU, strictly increasing; sigma[t] is the level of step t + 1 in Ho et al. 2020
    params: T and the parameters that make_schedule was called with
    """

    name: str
    sigma: Tensor
    params: dict = field(default_factory=dict)

    @property
    def T(self) -> int:
        return len(self.sigma)

    @property
    def alpha_bar(self) -> Tensor:
        """(T,) float64, the share of the signal in the variance of x_t (Ho et al. 2020, eq. 4)."""
        return 1 / (1 + self.sigma**2)

    @property
    def beta(self) -> Tensor:
        """(T,) float64, the variance added at each step (Ho et al. 2020, eq. 2)."""
        bar = self.alpha_bar
        return 1 - bar / torch.cat([bar.new_ones(1), bar[:-1]])

    @property
    def log_snr(self) -> Tensor:
        """(T,) float64, ln(alpha_bar / (1 - alpha_bar)) = -2 ln sigma."""
        return -2 * self.sigma.log()

    def t_to_sigma(self, t) -> Tensor:
        """The level of a time t in [0, T-1], also fractional; any shape -> float64. ln sigma is interpolated linearly."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        log_sigma = self.sigma.log()
        low = t.floor().long().clamp(0, self.T - 1)
        high = (low + 1).clamp(max=self.T - 1)
        return torch.lerp(log_sigma[low], log_sigma[high], t - low).exp()

    def sigma_to_t(self, sigma) -> Tensor:
        """The inverse of t_to_sigma: sigma of any shape -> float64 in [0, T-1]. Levels outside the schedule are clamped to it."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64).detach().cpu()
        if self.T == 1:
            return torch.zeros_like(sigma)
        log_sigma, s = self.sigma.log(), sigma.clamp(min=1e-12).log()
        high = torch.searchsorted(log_sigma, s.contiguous()).clamp(1, self.T - 1)
        low = high - 1
        return low + ((s - log_sigma[low]) / (log_sigma[high] - log_sigma[low])).clamp(0, 1)


def linear_betas(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Ho et al. 2020: beta rises linearly."""
    return torch.linspace(beta_start, beta_end, T, dtype=torch.float64)


def scaled_linear_betas(T: int, beta_start: float = 8.5e-4, beta_end: float = 0.012) -> Tensor:
    """Latent diffusion (Rombach et al. 2022): the square root of beta rises linearly."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2


def quadratic_betas(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """The "quad" schedule of Ho et al.'s code: scaled-linear from linear's beta_start to its beta_end."""
    return scaled_linear_betas(T, beta_start, beta_end)


def cosine_betas(T: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar(u) = cos^2((u + s) / (1 + s) pi / 2), beta clipped at max_beta."""
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=max_beta)


def sigmoid_betas(T: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999) -> Tensor:
    """Jabri et al. 2022 (also Chen 2023): alpha_bar falls along a sigmoid from start to end with temperature tau."""
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    a, b = torch.sigmoid(torch.tensor([start, end], dtype=torch.float64) / tau)
    bar = (b - torch.sigmoid((u * (end - start) + start) / tau)) / (b - a)
    return (1 - bar[1:] / bar[:-1]).clamp(1e-8, max_beta)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
    "scaled-linear": scaled_linear_betas,
    "quadratic": quadratic_betas,
}


@lru_cache(maxsize=64)
def _schedule(name: str, T: int, params: tuple) -> Schedule:
    beta = SCHEDULES[name](T, **dict(params))
    # a sum of ln(1 - beta) is more precise than a product of a thousand factors
    bar_log = torch.log1p(-beta).cumsum(0)
    return Schedule(name, torch.sqrt(torch.expm1(-bar_log)), {"T": T, **dict(params)})


def make_schedule(name: str = "linear", T: int = 1000, **params: float) -> Schedule:
    """Build a schedule by name.

    name:   one of SCHEDULES
    T:      number of steps, 2 to 100000
    params: of the schedule's function, e.g. beta_start and beta_end in (0, 1)
    Raises ValueError for values that are not accepted, and where the levels are not finite and increasing.
    """
    check_schedule(name, T, params)
    schedule = _schedule(name, T, tuple(sorted(params.items())))
    if not bool((schedule.sigma.diff() > 0).all()) or not bool(schedule.sigma.isfinite().all()):
        raise ValueError(f"schedule {name!r} with {params} does not give finite, increasing noise levels")
    return schedule


def _uniform_t(schedule: Schedule, steps: int, power: float) -> Tensor:
    """Trailing time steps T' ((steps - k) / steps)^power - 1, from the highest level below SIGMA_CAP down."""
    usable = max(int((schedule.sigma <= SIGMA_CAP).sum()), 1)
    if steps > usable:  # more steps than levels: fractional times
        return schedule.t_to_sigma(torch.linspace(usable - 1, 0, steps, dtype=torch.float64))
    k = torch.arange(steps, dtype=torch.float64)
    t = usable * (1 - k / steps) ** power - 1
    # squared times near zero would round to the same level, or below zero; each step must go to another level
    floor = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    return schedule.sigma[torch.maximum(t.round(), floor).long()]


def _karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Karras et al. 2022, eq. 5, between the schedule's lowest level and its highest below 80."""
    low, high = schedule.sigma[0], schedule.sigma[-1].clamp(max=80.0)
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def _uniform_log_snr(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps of lambda = -ln sigma (Lu et al. 2022)."""
    high = schedule.sigma[-1].clamp(max=SIGMA_CAP)
    return torch.linspace(high.log(), schedule.sigma[0].log(), steps, dtype=torch.float64).exp()


GRIDS: dict[str, tuple[Callable[[Schedule, int], Tensor], str]] = {
    "uniform-t": (lambda sch, n: _uniform_t(sch, n, 1.0), "equal steps of t, ending on the last (trailing)"),
    "quadratic-t": (lambda sch, n: _uniform_t(sch, n, 2.0), "t with quadratic spacing: more steps at low noise (DDIM)"),
    "karras": (_karras, "sigma^(1/7) equally spaced, from 80 down (EDM)"),
    "log-snr": (_uniform_log_snr, "equal steps of the log signal-to-noise ratio"),
}


def sigma_grid(schedule: Schedule, steps: int, kind: str = "uniform-t", start: float | None = None) -> Tensor:
    """The noise levels that a sampler visits: (steps + 1,) float64 on the CPU, decreasing, ending in 0.

    steps: number of sampler steps, at least 1
    kind:  one of GRIDS
    start: the first level, if it should be lower than the schedule's highest; the grid has as many steps between start and 0
    Raises ValueError for values that are not accepted.
    """
    check_choice("grid", kind, GRIDS)
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, not {steps}")
    if start is not None:
        if not start > 0:
            raise ValueError(f"start is sigma {start}; it must be above 0")
        below = schedule.sigma[schedule.sigma < start * (1 - 1e-9)]
        if not len(below):  # below the schedule's lowest level: equal steps of sigma
            return torch.linspace(start, 0, steps + 1, dtype=torch.float64)
        schedule = Schedule(schedule.name, torch.cat([below, torch.tensor([start], dtype=torch.float64)]))
    levels = GRIDS[kind][0](schedule, steps)
    return torch.cat([levels, levels.new_zeros(1)])


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, () or (B,), with trailing axes added so that it can multiply x (B, *S); in the type and on the device of x."""
    sigma = sigma.to(x.device, x.dtype) if sigma.dtype != x.dtype or sigma.device != x.device else sigma
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - 1)) if sigma.ndim else sigma


def add_noise(x0: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """x = x0 + sigma eps; x0 and eps (B, *S), sigma () or (B,)."""
    return x0 + expand(sigma, x0) * eps


def to_vp(x: Tensor, sigma: Tensor) -> Tensor:
    """The variance-preserving x_t = x / sqrt(1 + sigma^2), which is shown to users; sigma () or (B,)."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return x * expand(torch.rsqrt(1 + sigma**2), x)


def from_vp(x_t: Tensor, sigma: Tensor) -> Tensor:
    """The inverse of to_vp for one level sigma (): x = x_t sqrt(1 + sigma^2)."""
    return x_t * float((1 + sigma**2).sqrt())
