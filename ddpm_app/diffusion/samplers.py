"""Samplers: generators that go down a grid of noise levels and yield every step.

A sampler gets a function denoise(x, sigma) -> predicted x0 and works in the coordinate x = x0 + sigma eps. A step goes from the level
`s` to the level `r < s`. Multistep methods keep earlier evaluations in local variables.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_app.diffusion.guidance import Denoise
from ddpm_app.diffusion.schedules import expand, from_vp

Noise = Callable[[Tensor], Tensor]  # x -> standard normal noise of its shape


class Step(NamedTuple):
    """One step of a sampler.

    i, n:       step i of n, counted from 0
    nfe:        evaluations of the denoiser so far
    sigma:      () level at the start of the step
    sigma_next: () level at its end
    x:          (B, *S) at sigma_next
    x0:         (B, *S) predicted at sigma
    """

    i: int
    n: int
    nfe: int
    sigma: Tensor
    sigma_next: Tensor
    x: Tensor
    x0: Tensor


class SeededNoise:
    """A source of noise with one CPU generator per sample, so that sample k is the same in any batch and on any device.

    seeds: one integer per sample. Calling it with x (B, *S) returns standard normal noise of the same shape, type and device.
    Raises ValueError if B is not the number of seeds.
    """

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        if len(like) != len(self.generators):
            raise ValueError(f"{len(like)} samples but {len(self.generators)} seeds")
        rows = [torch.randn(like.shape[1:], generator=g) for g in self.generators]
        return torch.stack(rows).to(like)


def start(
    noise: Noise | Sequence[int],
    shape: Sequence[int],
    sigmas: Tensor,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    x0: Tensor | None = None,
) -> tuple[Tensor, Noise]:
    """The start of sampling: (x (B, *S) at the level sigmas[0], the Noise to pass to Sampler.steps).

    noise:  one seed per sample (for SeededNoise), or a Noise
    shape:  (B, *S)
    sigmas: the grid, from sigma_grid
    x0:     clean samples (B, *S) or (*S), to which noise of the level sigmas[0] is added (SDEdit, Meng et al. 2022); None starts from
            noise alone: x / sqrt(1 + sigma^2) is standard normal
    """
    noise = noise if callable(noise) else SeededNoise(noise)
    eps = noise(torch.empty(tuple(shape), device=device, dtype=dtype))
    return (from_vp(eps, sigmas[0]) if x0 is None else x0 + float(sigmas[0]) * eps), noise


def advance(x: Tensor, x0: Tensor, s: Tensor, r: Tensor) -> Tensor:
    """From level s to r along the line through x and the predicted x0: x0 + (r / s)(x - x0). Exact when x0 is constant."""
    return x0 + expand(r / s, x) * (x - x0)


def _pairs(sigmas: Tensor):
    n = len(sigmas) - 1
    return ((i, n, sigmas[i], sigmas[i + 1]) for i in range(n))


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise = torch.randn_like, eta: float = 0.0) -> Iterator[Step]:
    """Song et al. 2021, eq. 12 and 16. eta = 0 is deterministic; eta = 1 is DDPM's ancestral sampling ("fixed small")."""
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        up = eta * r * ((s**2 - r**2) / s**2).sqrt()
        x = advance(x, x0, s, (r**2 - up**2).clamp(min=0).sqrt())
        if up > 0:
            x = x + expand(up, x) * noise(x)
        yield Step(i, n, i + 1, s, r, x, x0)


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Ho et al. 2020, algorithm 2, with the posterior variance beta_tilde ("fixed small"), on any subset of the levels."""
    return ddim(denoise, x, sigmas, noise, eta=1.0)


def ddpm_large(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Ho et al. 2020, algorithm 2, with variance beta_t ("fixed large"). For the full chain; on short chains the samples stay noisy."""
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        x = x0 + expand((r / s) ** 2, x) * (x - x0)
        if r > 0:
            x = x + expand(((s**2 - r**2) * (1 + r**2) / (1 + s**2)).sqrt(), x) * noise(x)
        yield Step(i, n, i + 1, s, r, x, x0)


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise = torch.randn_like,
    churn: float = 0.0,
    churn_min: float = 0.05,
    churn_max: float = 50.0,
    churn_noise: float = 1.003,
) -> Iterator[Step]:
    """Karras et al. 2022, algorithms 1 (churn = 0) and 2. Two evaluations per step, one in the last.

    churn:                S_churn, divided over the steps
    churn_min, churn_max: new noise is added only where churn_min <= sigma <= churn_max
    churn_noise:          S_noise, factor of the new noise"""
    nfe = 0
    for i, n, s, r in _pairs(sigmas):
        if churn > 0 and churn_min <= s <= churn_max:
            lifted = s * (1 + min(churn / n, math.sqrt(2) - 1))
            x = x + expand((lifted**2 - s**2).sqrt() * churn_noise, x) * noise(x)
        else:
            lifted = s
        x0 = denoise(x, lifted)
        slope = (x - x0) / expand(lifted, x)
        step = expand(r - lifted, x)
        nfe += 1
        if r > 0:
            y = x + step * slope
            slope = (slope + (y - denoise(y, r)) / expand(r, x)) / 2
            nfe += 1
            x = x + step * slope
        else:
            x = x0
        yield Step(i, n, nfe, s, r, x, x0)


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022b, algorithm 2: second order, from the evaluations of this step and the one before."""
    previous = None
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        if r > 0:
            h = (s / r).log()
            best = x0
            if previous is not None:
                old, h_old = previous
                best = x0 + expand(h / (2 * h_old), x) * (x0 - old)
            x = advance(x, best, s, r)
            previous = (x0, h)
        else:
            x = x0
        yield Step(i, n, i + 1, s, r, x, x0)


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """UniPC-2 with B2(h) = e^h - 1 on the predicted x0 (Zhao et al. 2023): a 2M step, corrected with the next evaluation.

    The correction repeats the previous step with the evaluation at its end. The next step needs this evaluation as well, so the
    correction costs none."""
    before = None  # of the last step: x and x0 at its start, the x0 one step earlier, and the lengths of the two steps in ln sigma
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        if before is not None:
            x = _unipc_correct(x0, *before)
        if r == 0:
            yield Step(i, n, i + 1, s, r, x0, x0)
            return
        h = (s / r).log()
        old, h_old = (before[1], before[3]) if before is not None else (None, None)
        before = (x, x0, old, h, h_old)
        best = x0 if old is None else x0 + expand(h / (2 * h_old), x) * (x0 - old)
        x = advance(x, best, s, r)
        yield Step(i, n, i + 1, s, r, x, x0)


def _unipc_correct(new: Tensor, x: Tensor, x0: Tensor, old: Tensor | None, h: Tensor, h_old: Tensor | None) -> Tensor:
    """UniC (Zhao et al. 2023, eq. 9): repeat the step of length h from x, with the x0 interpolated through the value `new` at its end."""
    if old is None:
        change = 0.5 * (new - x0)
    else:  # fit the quadratic in lambda through old, x0 and new; 2x2 in closed form, in float64
        k = -h_old / h
        phi = torch.expm1(-h)
        b1 = (phi / -h - 1) / phi
        b2 = ((phi / -h - 1) / -h - 0.5) * 2 / phi
        w_old = (b1 - b2) / (1 - k)
        w_new = b1 - w_old
        change = expand(w_old / k, x) * (old - x0) + expand(w_new, x) * (new - x0)
    return expand(torch.exp(-h), x) * x - expand(torch.expm1(-h), x) * (x0 + change)


# Adams-Bashforth weights for equal steps, newest slope first
_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Iterator[Step]:
    """iPNDM-4 (Zhang & Chen 2022): Adams-Bashforth on dx/dsigma, with orders 1, 2, 3 in the first steps. Best on the Karras grid."""
    slopes: list[Tensor] = []
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        slopes = [(x - x0) / expand(s, x), *slopes[:3]]
        x = x + expand(r - s, x) * sum(w * d for w, d in zip(_ADAMS_BASHFORTH[len(slopes) - 1], slopes))
        yield Step(i, n, i + 1, s, r, x, x0)


def consistency(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise = torch.randn_like) -> Iterator[Step]:
    """Song et al. 2023, algorithm 1: the predicted x0 is the result, or gets fresh noise of the next level. For models tuned to few
    evaluations, whose predicted x0 is where the trajectory through x ends; of other models it is a mean over many images: blurred."""
    for i, n, s, r in _pairs(sigmas):
        x0 = denoise(x, s)
        x = x0 + expand(r, x) * noise(x) if r > 0 else x0
        yield Step(i, n, i + 1, s, r, x, x0)


@dataclass(frozen=True)
class Sampler:
    """A sampling method and what is known about it.

    run:        the generator function (denoise, x, sigmas, ...) -> Steps; some also take noise and options. Call it through `steps`
    blurb:      one line about the method
    order:      of convergence on smooth problems
    options:    names of its keyword arguments that a user may set
    grid:       the grid that suits it best, one of GRIDS
    stochastic: whether it adds noise at every step with its default options
    evaluations_per_step: 1, or 2 for Heun's method
    tuned:      only models tuned to few evaluations give good images with it
    """

    run: Callable[..., Iterator[Step]]
    blurb: str
    order: int
    options: tuple[str, ...] = ()
    grid: str = "uniform-t"
    stochastic: bool = False
    evaluations_per_step: int = 1
    tuned: bool = False

    def steps(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise = torch.randn_like, **options) -> Iterator[Step]:
        """Run the method from x (B, *S) at sigmas[0] down the grid.

        Arguments that the method does not take (noise, options of other methods) are ignored, so that callers can pass the same
        arguments to every sampler."""
        given = {"noise": noise, **options}
        accepted = inspect.signature(self.run).parameters
        return self.run(denoise, x, sigmas, **{name: value for name, value in given.items() if name in accepted})

    def steps_for(self, evaluations: int) -> int:
        """The largest number of steps that needs at most this many evaluations. Heun's method needs only one in its last step."""
        return max((evaluations + 1) // 2, 1) if self.evaluations_per_step == 2 else max(evaluations, 1)

    def cost(self, steps: int) -> int:
        """The evaluations that this many steps need."""
        return 2 * steps - 1 if self.evaluations_per_step == 2 else steps


SAMPLERS: dict[str, Sampler] = {
    "dpmpp-2m": Sampler(dpmpp_2m, "DPM-Solver++(2M): second order, one evaluation per step; good from 8 to 30", 2),
    "unipc": Sampler(unipc, "UniPC-2: 2M with a correction that needs no evaluation; the best here from 4 to 20", 3),
    "ipndm": Sampler(ipndm, "iPNDM-4: Adams-Bashforth with four slopes", 4, grid="karras"),
    "heun": Sampler(
        heun, "Heun (EDM): second order, two evaluations per step; churn adds noise", 2, ("churn",), "karras", evaluations_per_step=2
    ),
    "ddim": Sampler(ddim, "DDIM: first order, deterministic; eta = 1 makes it DDPM", 1, ("eta",)),
    "ddpm": Sampler(ddpm, "DDPM, small variance: ancestral sampling as in the paper; best with 1000, usable from 50", 1, stochastic=True),
    "ddpm-large": Sampler(
        ddpm_large, "DDPM, large variance: ancestral sampling with beta_t; only for the full chain of 1000", 1, stochastic=True
    ),
    "consistency": Sampler(
        consistency, "Consistency: 1 to 4 evaluations, for models tuned to few evaluations", 1, stochastic=True, tuned=True
    ),
}


# the samplers of models that are not tuned to few evaluations
GENERAL_SAMPLERS = {name: sampler for name, sampler in SAMPLERS.items() if not sampler.tuned}


def last(steps: Iterator[Step]) -> Tensor:
    """Run a sampler to its end and return the final x (B, *S)."""
    final = None
    for final in steps:  # noqa: B007
        pass
    return final.x
