"""How good a toy is: transport distances between sets of points, and likelihoods in nats a point with their standard errors.

ln p(x) in the data's units is ln p of (x - center) / scale, minus d ln scale. The functions here work in the coordinates of their
arguments; `shift_units` converts a result to the data's units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.guidance import Denoise
from ddpm_app.diffusion.likelihood import flow_grid, flow_log_density
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, add_noise


class Nats(NamedTuple):
    """A negative log-likelihood.

    mean: over the points, in nats
    error: standard error of the mean
    n: number of points"""

    mean: float
    error: float
    n: int


def nats(values: Tensor) -> Nats:
    values = values.double()
    return Nats(float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan, len(values))


def shift_units(value: Nats, dim: int, scale: float) -> Nats:
    """From the network's coordinates to the data's: -ln p(x) = -ln p_model((x - center) / scale) + d ln scale."""
    return value._replace(mean=value.mean + dim * math.log(scale))


# -- distances between sets ---------------------------------------------------------------------------------------------


def emd(a: Tensor, b: Tensor) -> float:
    """Exact earth mover's distance (Wasserstein-1, Euclidean ground distance) between (N, d) and (M, d), in their units."""
    import ot  # POT: loads scipy, so only where it is needed

    a, b = (np.ascontiguousarray(x.detach().double().numpy()) for x in (a, b))
    weights = [np.full(len(x), 1 / len(x)) for x in (a, b)]
    return float(ot.emd2(*weights, ot.dist(a, b, metric="euclidean"), numItermax=10_000_000))


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> float:
    """Root mean square over random directions of the one-dimensional Wasserstein-2 distance; (N, d) and (M, d)."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.randn(a.shape[1], projections, generator=g, dtype=torch.float64)
    direction = direction / direction.norm(dim=0)
    n = max(len(a), len(b))
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    quantile = [(x.double() @ direction).sort(0).values[(levels * len(x)).long().clamp(max=len(x) - 1)] for x in (a, b)]
    return float((quantile[0] - quantile[1]).square().mean().sqrt())


def mmd(a: Tensor, b: Tensor, widths: tuple[float, ...] | None = None) -> float:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, eq. 3), (N, d) and (M, d): kernel exp(-r^2 / (2 w^2)) averaged
    over widths, by default 1/4, 1/2, 1, 2, 4 times the median distance within b. Near 0, of either sign, for equal distributions."""
    a, b = a.double(), b.double()
    within_b = torch.cdist(b, b).square()
    if widths is None:
        median = float(within_b[:1000, :1000].flatten().median().sqrt()) or 1.0
        widths = tuple(median * 2.0**k for k in range(-2, 3))

    def kernel(square: Tensor) -> Tensor:
        return sum(torch.exp(square / (-2 * w * w)) for w in widths) / len(widths)

    def off_diagonal(k: Tensor) -> float:
        return float((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)))

    cross = float(kernel(torch.cdist(a, b).square()).mean())
    return off_diagonal(kernel(torch.cdist(a, a).square())) + off_diagonal(kernel(within_b)) - 2 * cross


# -- likelihoods -----------------------------------------------------------------------------------------------------------


def ode_log_likelihood(denoise: Denoise, x: Tensor, levels: Tensor) -> Tensor:
    """ln p(x), (B,) float64, of the deterministic sampler's density at the lowest of the increasing `levels`.

    The sampler starts from N(0, (1 + sigma^2) I) at the highest level. Integrates the probability-flow ODE with its exact divergence
    by fourth-order Runge-Kutta."""
    return flow_log_density(denoise, x, levels, exact=True, order=4)[0]


def nll_ode(denoise: Denoise, x: Tensor, schedule: Schedule, steps: int = 64) -> Nats:
    """The mean of -ode_log_likelihood over the levels of a schedule."""
    return nats(-ode_log_likelihood(denoise, x, flow_grid(schedule, steps)))


def bound_terms(denoise: Denoise, x0: Tensor, sigmas: Tensor, generator: torch.Generator, draws: int = 32) -> dict[str, Tensor]:
    """The variational bound on -ln p(x0) of DDPM with the posterior ("fixed small") variance: Ho et al. 2020, eq. 5.

    x0: (B, d). sigmas: (T,) float64 increasing, the levels of the chain. draws: terms of `steps` to evaluate for each point.
    Returns three (B,) float64 parts, whose sum is an unbiased estimate of the bound:
    prior  L_T: the noisiest level against N(0, (1 + sigma_T^2) I), exactly
    steps  the sum of the T - 1 terms KL(q(x_r | x_s, x0) || p(x_r | x_s)) = (1/r^2 - 1/s^2) |x0 - D(x_s, s)|^2 / 2. All terms are
           evaluated if T - 1 <= draws; else the sum is estimated by stratified importance sampling
    data   L_0 = -ln N(x0; D(x_1, sigma_1), beta_1): the last step has variance beta_1"""
    n, d = x0.shape
    top, low = float(sigmas[-1]), float(sigmas[0])

    def square(sigma: Tensor) -> Tensor:
        """|x0 - D(x0 + sigma eps, sigma)|^2 (B,) at sigma () or (B,)."""
        eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64).to(x0.dtype)
        return (x0 - denoise(add_noise(x0, sigma, eps), sigma)).double().square().sum(1)

    var = 1 + top**2
    prior = 0.5 * ((d * top**2 + x0.double().square().sum(1)) / var - d + d * math.log(var / top**2))
    beta = low**2 / (1 + low**2)
    data = 0.5 * square(sigmas[0]) / beta + 0.5 * d * math.log(2 * math.pi * beta)
    weight = 0.5 * (1 / sigmas[:-1] ** 2 - 1 / sigmas[1:] ** 2)
    total, count = torch.zeros(n, dtype=torch.float64), min(draws, len(weight))
    # for data of variance 1 a term is about weight * s^2 / (1 + s^2): sampling in that proportion keeps the variance low
    share = weight * sigmas[1:] ** 2 / (1 + sigmas[1:] ** 2)
    share = share / share.sum()
    for j in range(count):
        if count == len(weight):
            k, times = torch.full((n,), j), 1.0
        else:  # each point draws a term from the j-th stratum
            u = (j + torch.rand(n, generator=generator, dtype=torch.float64)) / count
            k = torch.searchsorted(share.cumsum(0), u).clamp(max=len(weight) - 1)
            times = 1 / (count * share[k])
        total += times * weight[k] * square(sigmas[1:][k])
    return {"prior": prior, "steps": total, "data": data}


def bound(denoise: Denoise, x0: Tensor, schedule: Schedule, seed: int = 0, draws: int = 32) -> Nats:
    """The mean of bound_terms' sum over all levels of a schedule up to SIGMA_CAP."""
    sigmas = schedule.sigma[schedule.sigma <= SIGMA_CAP]
    terms = bound_terms(denoise, x0, sigmas, torch.Generator().manual_seed(seed), draws)
    return nats(sum(terms.values()))
