"""The likelihood of images: the variational bound of Ho et al. 2020, and the likelihood of the probability-flow ODE.

The functions compute nats; bits_per_dim converts them. Pixels are integers 0..255, mapped to [-1, 1] in steps of 1 / 127.5.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.guidance import Denoise
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, add_noise
from ddpm_app.images.pixels import to_model

BIN = 1 / 127.5  # width of a grey level in model space


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """Negative log-likelihood in nats per image -> bits per dimension."""
    return nats / (dims * math.log(2))


@dataclass(frozen=True)
class Bound:
    """The variational bound and its parts in bits per dimension, means over images.

    L_T:            prior
    L_mid:          sum of the terms t = 2..T
    L_0:            decoder
    total:          L_T + L_mid + L_0
    standard_error: of total, over images
    L_t:            (T - 1,) the term of each t = 2..T, NaN where none was drawn
    n:              number of images
    levels:         (first t, last t, bits) of each stretch of strata(); the bits add up to L_mid
    """

    L_T: float
    L_mid: float
    L_0: float
    total: float
    standard_error: float
    L_t: np.ndarray
    n: int
    levels: tuple[tuple[int, int, float], ...] = ()


def prior_kl(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T: KL(q(x_T | x0) || N(0, I)) in nats, (B,), exact."""
    bar = float(schedule.alpha_bar[-1])
    per_dim = 0.5 * (-math.log(1 - bar) + (1 - bar) - 1 + bar * x0.double() ** 2)
    return per_dim.flatten(1).sum(1)


def step_kl(x0: Tensor, predicted: Tensor, schedule: Schedule, t: Tensor, variance: str = "large") -> Tensor:
    """L_{t-1}: KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) in nats, (B,) (Ho et al. 2020, eq. 5 and 8).

    x0, predicted: (B, *S) the images and the network's prediction of them, in model space
    t:             (B,) int64 in 2..T
    variance:      of p: "large" is beta_t, the best for data of unit variance; "small" is beta_tilde, the best for a single data point.
                   With "small" the term is half the difference in SNR times the squared error of x0
    """
    snr = 1 / schedule.sigma**2
    error = 0.5 * (snr[t - 2] - snr[t - 1]) * (x0 - predicted).double().square().flatten(1).sum(1).cpu()
    if variance == "small":
        return error
    bar = schedule.alpha_bar
    ratio = (1 - bar[t - 2]) / (1 - bar[t - 1])  # beta_tilde / beta
    return ratio * error + 0.5 * x0[0].numel() * (ratio - 1 - ratio.log())


def decoder_nll(images: Tensor, mean: Tensor, std: float) -> Tensor:
    """L_0: -log p(x0 | x_1) in nats, (B,): a Gaussian integrated over the interval of each grey level (Ho et al. 2020, eq. 13).

    images: uint8 (B, C, H, W). mean, std: of the Gaussian, in model space. The intervals of 0 and 255 extend to infinity."""
    x0 = images.double() / 127.5 - 1  # in float64, so that neighbouring bins share their edge
    centred = x0 - mean.double()
    # the difference of two log-cdfs, on the side where both are small: there it is precise in the tails, too
    sign = torch.where(centred > 0, -1.0, 1.0)
    high = torch.special.log_ndtr(sign * (centred + sign * BIN / 2) / std)
    low = torch.special.log_ndtr(sign * (centred - sign * BIN / 2) / std)
    inner = high + torch.log(-torch.expm1((low - high).clamp(max=-1e-12)))
    top = torch.special.log_ndtr(-(centred - BIN / 2) / std)
    bottom = torch.special.log_ndtr((centred + BIN / 2) / std)
    log_p = torch.where(images == 255, top, torch.where(images == 0, bottom, inner))
    return -log_p.flatten(1).sum(1)


def strata(T: int, draws: int) -> list[int]:
    """Increasing edges that divide the times 2..T into `draws` stretches [edge, next edge), each of at least one time.

    Stretches grow with t. The terms of the bound are largest and differ most at small t, so short stretches there reduce the variance."""
    draws = min(draws, T - 1)
    return [max(round(2 + (T - 1) * (k / draws) ** 2), 2 + k) for k in range(draws + 1)]


@torch.no_grad()
def variational_bound(
    denoise: Denoise, images: Tensor, schedule: Schedule, draws: int = 20, seed: int = 0, batch: int = 64, variance: str = "large"
) -> Bound:
    """Bits per dimension by the bound L_T + L_{T-1} + ... + L_0 (Ho et al. 2020, eq. 5).

    denoise:  (x, sigma (B,)) -> predicted x0
    images:   uint8 (N, C, H, W)
    draws:    times per image, one from each stretch of strata(), weighted by the length of the stretch, so that the estimate is
              unbiased; T - 1 or more takes every t
    seed:     of times and noise
    batch:    images in one call of denoise
    variance: of the reverse step, see step_kl
    The decoder has the standard deviation sqrt(beta_1).
    """
    n, T = len(images), schedule.T
    dims, g = images[0].numel(), torch.Generator().manual_seed(seed)
    draws = min(draws, T - 1)
    edges = strata(T, draws)
    sums, counts = torch.zeros(T - 1, dtype=torch.float64), torch.zeros(T - 1, dtype=torch.float64)
    stretch = torch.zeros(draws, dtype=torch.float64)
    parts = torch.zeros(3, n, dtype=torch.float64)
    for at in range(0, n, batch):
        chunk = images[at : at + batch]
        x0 = to_model(chunk)
        where = slice(at, at + len(chunk))
        parts[0, where] = prior_kl(x0, schedule)
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            t = torch.randint(low, high, (len(chunk),), generator=g)
            sigma = schedule.sigma[t - 1]
            x = add_noise(x0, sigma, torch.randn(x0.shape, generator=g))
            kl = step_kl(x0, denoise(x, sigma).cpu(), schedule, t, variance)
            parts[1, where] += kl * (high - low)
            stretch[k] += kl.sum() * (high - low) / n
            sums.index_add_(0, t - 2, kl), counts.index_add_(0, t - 2, torch.ones_like(kl))
        sigma = schedule.sigma[:1].expand(len(chunk))
        x = add_noise(x0, sigma, torch.randn(x0.shape, generator=g))
        parts[2, where] = decoder_nll(chunk, denoise(x, sigma).cpu(), math.sqrt(float(schedule.beta[0])))
    bits = bits_per_dim(parts, dims)
    total = bits.sum(0)
    error = float(total.std() / n**0.5) if n > 1 else math.nan
    L_t = bits_per_dim(sums / counts, dims).numpy()
    levels = tuple(zip(edges, (e - 1 for e in edges[1:]), bits_per_dim(stretch, dims).tolist()))
    return Bound(*(float(v) for v in bits.mean(1)), float(total.mean()), error, L_t, n, levels)


@dataclass(frozen=True)
class FlowLikelihood:
    """The likelihood of images under the probability-flow ODE, in bits per dimension.

    bits:           mean over images
    standard_error: of the mean, over images
    probe_error:    standard error of Hutchinson's estimate alone, from the spread between probes; NaN for one probe
    evaluations:    of the denoiser per image; all but one with a gradient
    n:              number of images
    """

    bits: float
    standard_error: float
    probe_error: float
    evaluations: int
    n: int


# order -> (per stage after the first: the share of the step it goes along the slope of the stage before; weights of all slopes)
RUNGE_KUTTA = {2: ((1.0,), (1, 1)), 4: ((0.5, 0.5, 1.0), (1, 2, 2, 1))}  # Heun's method; the classical one


def run_to_end(steps: Generator):
    """Run a generator to its end. Returns its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def flow_log_density(
    denoise: Denoise, x: Tensor, sigmas: Tensor, probes: int = 1, seed: int = 0, exact: bool = False, order: int = 2
) -> tuple[Tensor, Tensor]:
    """flow_density_steps without the steps: (log-density (B,) in nats, its estimates (probes, B)), both float64."""
    return run_to_end(flow_density_steps(denoise, x, sigmas, probes, seed, exact, order))


def flow_rate(denoise: Denoise, x: Tensor, sigma: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(rate, products): the rate dx / d ln sigma = x - D (B, *S), and v^T (d rate / dx) v of each vector v, (P, B) float64.

    vectors: (P, B, *S). Each takes one gradient. With unit vectors the products are the diagonal of the Jacobian; with random signs
    each product is Hutchinson's estimate of its trace."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        predicted = denoise(x, sigma)
        products = []
        for k, v in enumerate(vectors):
            v = v.to(x.device)
            (jacobian,) = torch.autograd.grad(predicted, x, v, retain_graph=k + 1 < len(vectors))
            products.append(((v * v - jacobian * v).flatten(1).sum(1)).double())
    return (x - predicted).detach(), torch.stack(products)


def flow_density_steps(
    denoise: Denoise, x: Tensor, sigmas: Tensor, probes: int = 1, seed: int = 0, exact: bool = False, order: int = 2
) -> Generator[int, None, tuple[Tensor, Tensor]]:
    """Log-density of the probability-flow ODE in nats (Song et al. 2021, eq. 39), in the coordinate x = x0 + sigma eps.

    x:      (B, *S) at level sigmas[0]
    sigmas: increasing float64 levels; the prior at the last is N(0, (1 + sigma^2) I)
    probes: number of Rademacher vectors in Hutchinson's estimate of the divergence, drawn from `seed`
    exact:  use the exact divergence instead, with one gradient per dimension; only for small S
    order:  of the integrator in ln sigma: 2 (Heun) or 4 (Runge-Kutta), with `order` evaluations per step
    Yields the number of steps done. Returns (log-density (B,), its estimates (probes, B), or (1, B) if exact), both float64.
    """
    dims, (shares, weights) = x[0].numel(), RUNGE_KUTTA[order]
    if exact:
        vectors = torch.eye(dims, dtype=x.dtype).view(dims, 1, *x.shape[1:]).expand(dims, *x.shape)
    else:
        g = torch.Generator().manual_seed(seed)
        vectors = torch.randint(0, 2, (probes, *x.shape), generator=g).to(x.dtype) * 2 - 1
    change = torch.zeros(len(vectors), len(x), dtype=torch.float64, device=x.device)
    for k, (s, r) in enumerate(zip(sigmas, sigmas[1:])):
        h = float((r / s).log())
        stages = [flow_rate(denoise, x, s, vectors)]
        for share in shares:
            level = r if share == 1 else s * math.exp(share * h)
            stages.append(flow_rate(denoise, x + share * h * stages[-1][0], level, vectors))
        rates, traces = zip(*stages)
        x = x + h / sum(weights) * sum(w * rate for w, rate in zip(weights, rates))
        change += h / sum(weights) * sum(w * trace for w, trace in zip(weights, traces))
        yield k + 1
    variance = 1 + float(sigmas[-1]) ** 2
    prior = -0.5 * (x.double().square().flatten(1).sum(1) / variance + dims * math.log(2 * math.pi * variance))
    estimates = prior + (change.sum(0, keepdim=True) if exact else change)
    return estimates.mean(0), estimates


def flow_levels(low: float, high: float, steps: int) -> Tensor:
    """(steps + 1,) float64: levels from `low` up to `high` in equal steps of ln sigma."""
    return torch.linspace(math.log(low), math.log(high), steps + 1, dtype=torch.float64).exp()


def flow_grid(schedule: Schedule, steps: int) -> Tensor:
    """flow_levels from the schedule's lowest level to its highest, at most SIGMA_CAP."""
    return flow_levels(float(schedule.sigma[0]), min(float(schedule.sigma[-1]), SIGMA_CAP), steps)


def flow_likelihood(
    denoise: Denoise, images: Tensor, schedule: Schedule, steps: int = 50, probes: int = 1, seed: int = 0, batch: int = 32
) -> FlowLikelihood:
    """flow_likelihood_steps without the steps."""
    return run_to_end(flow_likelihood_steps(denoise, images, schedule, steps, probes, seed, batch))


def flow_likelihood_steps(
    denoise: Denoise, images: Tensor, schedule: Schedule, steps: int = 50, probes: int = 1, seed: int = 0, batch: int = 32
) -> Generator[float, None, FlowLikelihood]:
    """Bits per dimension of images, from the density of the probability-flow ODE at the schedule's lowest level.

    images: uint8 (N, C, H, W)
    steps:  Heun steps in ln sigma, 2 evaluations each
    probes: of Hutchinson's estimate, see flow_density_steps
    batch:  images in one call of denoise

    The model is p(x_1) p(x0 | x_1) with the density of the ODE and the discrete decoder of L_0. The result is the upper bound
    E_q[-log p(x_1) + log q(x_1 | x0) - log p(x0 | x_1)] of -log p(x0). It replaces all terms t = 2..T of the variational bound by one
    exact term. (Uniform dequantisation would add the noise of the lowest level to the code length of the image:
    log2(4.13 sigma_1 / bin), 1.8 bits per dimension with the cosine schedule.)
    Yields the share done, 0 to 1. Returns a FlowLikelihood."""
    g, grid = torch.Generator().manual_seed(seed), flow_grid(schedule, steps)
    dims, all_bits, spreads, lowest = images[0].numel(), [], [], float(schedule.sigma[0])
    for at in range(0, len(images), batch):
        chunk = images[at : at + batch]
        eps = torch.randn(chunk.shape, generator=g)
        x = add_noise(to_model(chunk), schedule.sigma[0], eps)
        with torch.no_grad():
            decoded = decoder_nll(chunk, denoise(x, schedule.sigma[:1].expand(len(chunk))).cpu(), math.sqrt(float(schedule.beta[0])))
        log_q = -0.5 * eps.double().square().flatten(1).sum(1) - dims * math.log(lowest * math.sqrt(2 * math.pi))
        density, done = flow_density_steps(denoise, x, grid, probes, seed + at + 1), at / len(images)
        while True:
            try:
                yield done + len(chunk) / len(images) * next(density) / steps
            except StopIteration as end:
                log_p, estimates = end.value
                break
        all_bits.append(bits_per_dim(decoded + log_q - log_p.cpu(), dims))
        if probes > 1:
            spreads.append(bits_per_dim(estimates.std(0), dims) / probes**0.5)
    bits = torch.cat(all_bits)
    n = len(bits)
    probe_error = float(torch.cat(spreads).square().mean().sqrt() / n**0.5) if spreads else math.nan
    error = float(bits.std() / n**0.5) if n > 1 else math.nan
    return FlowLikelihood(float(bits.mean()), error, probe_error, 2 * steps + 1, n)
