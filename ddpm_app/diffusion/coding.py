"""Progressive coding (Ho et al. 2020, section 4.3 and algorithm 3): the image that a receiver can decode after the first bits.

The sender draws x_T, x_{T-1}, ..., x_1 from the forward process q given the image, and sends them in this order. It codes x_{t-1} with
the receiver's distribution p(x_{t-1} | x_t), which costs KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) bits (Harsha et al. 2007). At the
end it codes the pixels with p(x0 | x_1).

The rate at t is the number of bits sent until the receiver has x_t. The distortion at t is the error of the x0 that the network
predicts from x_t. The rate at the end is the variational bound of likelihood.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.guidance import Denoise
from ddpm_app.diffusion.likelihood import bits_per_dim, decoder_nll, prior_kl, step_kl, strata
from ddpm_app.diffusion.samplers import SeededNoise
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, to_vp
from ddpm_app.images.pixels import to_model, to_uint8

GREY = 127.5  # grey levels (0..255) per unit of model space [-1, 1]


@dataclass(frozen=True)
class State:
    """The receiver's state for n images when it has x_t.

    t:      time, from T down to 1; 0 when the pixels are decoded exactly
    sigma:  noise level of t
    bits:   (n,) float64, bits received so far, per image
    cost:   (n,) bits per image of the next step, which sends x_{t-1}, or the pixels (L_0) at t = 1; 0 at t = 0
    steps:  number of steps of the chain that are counted with this cost; 1 where every t is visited
    mse:    (n,) mean squared error per dimension of the predicted x0, clipped to [-1, 1], in model space
    x, x0:  uint8 (n, C, H, W), the variance-preserving x_t and the predicted x0
    """

    t: int
    sigma: float
    bits: Tensor
    cost: Tensor
    steps: int
    mse: Tensor
    x: Tensor
    x0: Tensor


def times(T: int, states: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """The visited times as (low, t, high), from T down. t is drawn from the stretch low..high - 1; its cost counts for the whole stretch.

    The stretches divide 2..T. T is always visited. With T - 1 states or more, every t is visited. Raises ValueError for fewer than 2
    states."""
    if states < 2:
        raise ValueError(f"{states} states; 2 or more are accepted")
    edges = strata(T, states) if states >= T - 1 else [*strata(T - 1, states - 1), T + 1]
    g = torch.Generator().manual_seed(seed)
    return [(low, int(torch.randint(low, high, (), generator=g)), high) for low, high in zip(edges, edges[1:])][::-1]


@torch.no_grad()
def progressive(
    denoise: Denoise,
    images: Tensor,
    schedule: Schedule,
    states: int = 60,
    seed: int = 0,
    variance: str = "large",
    batch: int = 64,
    times_seed: int | None = None,
) -> Iterator[State]:
    """Yield the receiver's states from x_T (t = T) to the exact pixels (t = 0): `states` + 2 of them, or T + 1 if every t is visited.

    denoise:    (x, sigma (B,)) -> predicted x0; row r of a call belongs to image r mod n
    images:     uint8 (n, C, H, W)
    variance:   of p(x_{t-1} | x_t), "large" or "small", see likelihood.step_kl
    seed:       the noise of image k has the seed `seed` + k
    times_seed: seed of the visited times (default: seed)
    batch:      rows in one call of denoise, if n is smaller

    If every t is visited, State.bits is exact for the drawn path x_T..x_1. With fewer states, the cost at one drawn time counts for its
    stretch; its mean over draws is the cost of the stretch. The mean of bits over paths and images is an unbiased estimate of
    E_q[L_T + the KL terms above t]; the mean of mse estimates E_q |x0 - x0_hat(x_t)|^2 / dimensions.
    Raises ValueError for images of another type or shape, and for fewer than 2 states.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; uint8 (n, C, H, W) is accepted")
    n, T, x0 = len(images), schedule.T, to_model(images)
    noise = SeededNoise(range(seed, seed + n))
    plan = [*times(T, states, seed if times_seed is None else times_seed), (1, 1, 2)]
    bits = prior_kl(x0, schedule) / math.log(2)
    offset, level = noise(x0) * float(schedule.sigma[-1]), float(schedule.sigma[-1])  # x_t - x0
    group = max(batch // n, 1)
    for at in range(0, len(plan), group):
        chunk, offsets = plan[at : at + group], []
        for _, t, _ in chunk:  # q(x_t | x_s, x0) for t < s: a Brownian bridge in sigma^2
            lower = float(schedule.sigma[t - 1])
            share = (lower / level) ** 2
            offset = share * offset + lower * math.sqrt(1 - share) * noise(x0) if lower < level else offset
            level = lower
            offsets.append(offset)
        sigma = schedule.sigma[[t - 1 for _, t, _ in chunk]].repeat_interleave(n)
        x = x0.repeat(len(chunk), 1, 1, 1) + torch.cat(offsets)
        predicted = denoise(x, sigma).float().cpu()
        for (low, t, high), x_t, x0_hat in zip(chunk, x.split(n), predicted.split(n)):
            if t > 1:
                cost = step_kl(x0, x0_hat, schedule, torch.full((n,), t), variance) / math.log(2)
            else:
                cost = decoder_nll(images, x0_hat, math.sqrt(float(schedule.beta[0]))) / math.log(2)
            mse = (x0 - x0_hat.clamp(-1, 1)).double().square().flatten(1).mean(1)
            s = float(schedule.sigma[t - 1])
            shown = to_uint8(to_vp(x_t, schedule.sigma[t - 1])), to_uint8(x0_hat)
            yield State(t, s, bits + (high - 1 - t) * cost, cost, high - low, mse, *shown)
            bits = bits + (high - low) * cost
    yield State(0, 0.0, bits, torch.zeros_like(bits), 0, torch.zeros_like(bits), images, images)


def fine_levels(schedule: Schedule, steps: int = 1000) -> Schedule:
    """A schedule of `steps` levels with equal steps of log-SNR, from the lowest level of `schedule` to its highest below SIGMA_CAP.

    The same network can be evaluated at these levels. With many steps the bound approaches its continuous-time limit, which does not
    depend on the variance of the reverse step."""
    high = min(float(schedule.sigma[-1]), SIGMA_CAP)
    levels = torch.linspace(math.log(float(schedule.sigma[0])), math.log(high), steps, dtype=torch.float64).exp()
    levels[0] = schedule.sigma[0]
    return Schedule(f"{schedule.name}, {steps} equal steps of log-SNR", levels)


@dataclass(frozen=True)
class Curve:
    """Rate and distortion at P states from t = T to 0: means over N images, or over N paths of one image.

    t, sigma:        (P,) time and noise level
    rate:            (P,) bits per dimension received when x_t is known
    rate_error:      (P,) standard error of rate over images, NaN for one image
    rmse:            (P,) root mean squared error of the predicted x0, in grey levels of 0..255
    cost:            (P,) bits per dimension of the next single step; L_0 at t = 1
    L_T, L_mid, L_0: parts of the variational bound, bits per dimension
    total:           their sum
    standard_error:  of total, over images
    n, dims:         number of images; dimensions C*H*W of an image
    """

    t: np.ndarray
    sigma: np.ndarray
    rate: np.ndarray
    rate_error: np.ndarray
    rmse: np.ndarray
    cost: np.ndarray
    L_T: float
    L_mid: float
    L_0: float
    total: float
    standard_error: float
    n: int
    dims: int

    def to_dict(self) -> dict:
        """Plain lists and numbers, for JSON (NaN becomes None)."""
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}
        return {k: [_number(x) for x in v] if isinstance(v, list) else _number(v) for k, v in plain.items()}


def _number(value: float):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def curve(runs: Iterable[Sequence[State]]) -> Curve:
    """The mean over batches of images. runs: the states of progressive() for each batch. Raises ValueError if their times differ."""
    runs = [list(run) for run in runs]
    if not runs or any([s.t for s in run] != [s.t for s in runs[0]] for run in runs):
        raise ValueError("a curve needs at least one run, and all of the same times")
    first = runs[0]
    dims, ln2 = first[0].x0[0].numel(), math.log(2)
    bits = torch.stack([torch.cat([run[k].bits for run in runs]) for k in range(len(first))])
    rates = bits_per_dim(bits * ln2, dims).numpy()  # (P, N)
    cost = bits_per_dim(torch.stack([torch.cat([run[k].cost for run in runs]) for k in range(len(first))]) * ln2, dims).mean(1).numpy()
    mse = torch.stack([torch.cat([run[k].mse for run in runs]) for k in range(len(first))]).mean(1).numpy()
    n = rates.shape[1]
    error = rates.std(1, ddof=1) / n**0.5 if n > 1 else np.full(len(first), math.nan)
    rate = rates.mean(1)
    L_T, L_0 = float(rate[0]), float(cost[-2])  # T is visited first, before anything but x_T was sent
    return Curve(
        np.array([s.t for s in first]), np.array([s.sigma for s in first]), rate, error, GREY * np.sqrt(mse), cost,
        L_T, float(rate[-2]) - L_T, L_0, float(rate[-1]), float(error[-1]), n, dims,
    )  # fmt: skip
