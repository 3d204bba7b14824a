"""Sweeps: NLL and EMD against T and against the schedule. The networks of all settings and seeds train in one computation.

Measured values are in the data's units. Every row contains its settings. A fixed seed gives the same rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import Denoise, conditioned
from ddpm_app.diffusion.likelihood import flow_levels
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import SIGMA_CAP
from ddpm_app.flags import check, setting
from ddpm_app.networks.mlp import ToyStack
from ddpm_app.toy import metrics
from ddpm_app.toy.shapes import ToyData, split
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_toys

DEFAULT_T = (10, 50, 100, 150, 200, 500, 1000)
# (beta_start, beta_end) of linear schedules with 200 steps
DEFAULT_PAIRS = ((1e-4, 0.005), (1e-4, 0.02), (1e-4, 0.05), (1e-3, 0.1), (1e-2, 0.2))
SWEEP = dict(width=128, time_width=32, batch=64, steps=3000, lr=5e-3)  # small enough for twenty networks at once


@dataclass(frozen=True)
class ExperimentEvent:
    """What an experiment yields.

    fraction: of the work that is done, 0 to 1
    text: what was just done
    rows: the rows finished since the last event
    picture: what to draw beside the rows, if anything; each experiment's docstring describes it"""

    fraction: float
    text: str
    rows: tuple[dict, ...] = ()
    picture: dict | None = None


@dataclass(frozen=True)
class Scale:
    """How much is measured; each field states its meaning and bounds. Raises ValueError for a field out of bounds."""

    points: int = setting(2000, "points in each set of an EMD", low=10, high=20_000)
    nll_points: int = setting(500, "test points of an ODE likelihood", low=10, high=20_000)
    bound_points: int = setting(1000, "test points of a bound", low=10, high=100_000)
    ode_steps: int = setting(24, "steps of an ODE likelihood", low=1)
    seed: int = setting(0, "seed of the test points and the noise", low=0)

    def __post_init__(self):
        check(self)


STANDARD = Scale()


def normal(seed: int) -> Callable[[Tensor], Tensor]:
    """A function that draws standard normal noise of x's shape and type, from one generator."""
    g = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)


def draw(denoise: Denoise, sigmas: Tensor, n: int, dim: int, seed: int, sampler: str = "ddpm", dtype=torch.float32) -> Tensor:
    """n points (n, dim) in the network's coordinates."""
    x, noise = start(normal(seed), (n, dim), sigmas, dtype=dtype)
    with torch.no_grad():
        return last(SAMPLERS[sampler].steps(denoise, x, sigmas, noise))


def over_seeds(rows: Sequence[dict], by: Sequence[str], values: Sequence[str]) -> list[dict]:
    """One line for each group of rows that agree on `by`, in order of appearance: mean and standard deviation ("spread") of values."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(k) for k in by), []).append(row)
    out = []
    for key, members in groups.items():
        line = dict(zip(by, key))
        for v in values:
            numbers = [m[v] for m in members if m.get(v) is not None]
            line[v] = float(np.mean(numbers)) if numbers else None
            line[f"{v} spread"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
        out.append({**line, "runs": len(members)})
    return out


def data_to_data_emd(data: ToyData, test: ToyData, scale: Scale) -> float | None:
    """EMD between two sets of data: the value that a perfect model would reach. None for too few points."""
    if data.truth is not None:
        other, _ = data.truth.sample(scale.points, torch.Generator().manual_seed(scale.seed + 104_729))
        return metrics.emd(test.x[: scale.points], other)
    n = len(test) // 2
    return metrics.emd(test.x[:n], test.x[n : 2 * n]) if n >= 10 else None


def _sweep(
    data: ToyData, settings: list[tuple[dict, dict]], seeds: Sequence[int], scale: Scale, loop: bool = False, **training
) -> Iterator[ExperimentEvent]:
    """A row for every setting and seed. settings: (columns of the row, arguments of ToyTrainConfig). loop: train and measure one
    network after the other instead, to compare the time."""
    if not seeds or not settings:
        raise ValueError("a sweep needs at least one setting and one seed")
    shared = {**SWEEP, "label_dropout": 1.0, **training}
    train_data, test = split(data, max(scale.points, scale.nll_points, scale.bound_points), scale.seed)
    configs = [ToyTrainConfig(**shared, **arguments, seed=seed) for _, arguments in settings for seed in seeds]
    trainers = [ToyTrainer([c], train_data) for c in configs] if loop else [ToyTrainer(configs, train_data)]
    for k, trainer in enumerate(trainers):
        what = f"network {k + 1} of {len(trainers)}" if loop else f"{len(configs)} networks at once"
        for event in train_toys(trainer, every=max(configs[0].steps // 40, 1)):
            yield ExperimentEvent(
                0.5 * (k + event.step / event.steps) / len(trainers), f"training {what}: step {event.step} of {event.steps}"
            )
    truth = None if data.truth is None else float(-data.truth.log_prob(test.x[: scale.nll_points]).mean())
    networks = [n for t in trainers for n in t.networks()]
    costs = [c.T + 400 for c in configs]  # cost of measuring each network, for the fraction done: T steps of the sampler, and the rest
    size, waiting = 1 if loop else len(seeds), deque()
    pool = ThreadPoolExecutor(1 if loop else torch.get_num_threads())  # an EMD releases Python's lock: it runs during the sampling

    def finished() -> ExperimentEvent:
        end, rows, distances = waiting.popleft()
        rows = [
            {**row, "emd": d and d.result(), "nll true": truth, "emd data to data": reference.result()} for row, d in zip(rows, distances)
        ]
        text = ", ".join(f"{k} {v}" for k, v in settings[(end - 1) // len(seeds)][0].items())
        return ExperimentEvent(0.5 + 0.5 * sum(costs[:end]) / sum(costs), f"measured {text}", tuple(rows))

    try:
        reference = pool.submit(data_to_data_emd, data, test, scale)
        for i in range(0, len(configs), size):
            columns = settings[i // len(seeds)][0]
            network = networks[i] if size == 1 else ToyStack(networks[i : i + size])
            denoiser = Denoiser(network.requires_grad_(False), configs[i].make_schedule(), configs[0].prediction_type)
            rows, distances = [], []
            for config, (row, sample) in zip(configs[i : i + size], _measure(denoiser, data, test, scale, size)):
                rows.append({"data": data.name, **columns, "seed": config.seed, **row})
                distances.append(pool.submit(metrics.emd, sample, test.x[: scale.points]) if bool(sample.isfinite().all()) else None)
            waiting.append((i + size, rows, distances))
            while waiting and (loop or all(d is None or d.done() for d in waiting[0][2])):
                yield finished()
        while waiting:
            yield finished()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _measure(denoiser: Denoiser, data: ToyData, test: ToyData, scale: Scale, size: int) -> list[tuple[dict, Tensor]]:
    """For each of the `size` networks of a stack: its likelihoods, sliced W2 and MMD, and its samples. All get the same test points
    and noise."""
    schedule, denoise = denoiser.schedule, conditioned(denoiser, None)
    full = schedule.sigma[schedule.sigma <= SIGMA_CAP].flip(0)
    full = torch.cat([full, full.new_zeros(1)])
    z = normal(scale.seed + 1)

    def same(x: Tensor) -> Tensor:  # the same noise for each network of the stack
        return z(x[: len(x) // size]).repeat(size, 1)

    x, noise = start(same, (size * scale.points, data.dim), full)
    with torch.no_grad():
        samples = data.from_model(last(SAMPLERS["ddpm"].steps(denoise, x, full, noise))).reshape(size, scale.points, data.dim)
        points = data.to_model(test.x[: scale.bound_points])
        n_bound = len(points)
        terms = metrics.bound_terms(denoise, points.repeat(size, 1), full[:-1].flip(0), torch.Generator().manual_seed(scale.seed + 2))
    points = data.to_model(test.x[: scale.nll_points])
    levels = flow_levels(float(schedule.sigma[0]), float(full[0]), scale.ode_steps)
    ode = -metrics.ode_log_likelihood(denoise, points.repeat(size, 1), levels)
    results = []
    for i in range(size):
        bound = metrics.nats(sum(terms.values())[i * n_bound : (i + 1) * n_bound])
        exact = metrics.nats(ode[i * len(points) : (i + 1) * len(points)])
        bound, exact = (metrics.shift_units(v, data.dim, data.scale) for v in (bound, exact))
        finite = bool(samples[i].isfinite().all())
        row = {"nll ode": exact.mean, "nll ode error": exact.error, "nll bound": bound.mean, "nll bound error": bound.error}
        row["sliced w2"] = metrics.sliced_wasserstein(samples[i], test.x[: scale.points]) if finite else None
        row["mmd2"] = metrics.mmd(samples[i][:1000], test.x[:1000]) if finite else None
        results.append((row, samples[i]))
    return results


def steps(
    data: ToyData, T: Sequence[int] = DEFAULT_T, seeds: Sequence[int] = (0, 1, 2), scale: Scale = STANDARD, scaled: bool = False, **training
) -> Iterator[ExperimentEvent]:
    """NLL and EMD against T, with linear betas from 1e-4 to 0.02.

    scaled: multiply the betas by 1000 / T, so that every chain ends in noise."""
    settings = []
    for k in T:
        factor = 1000 / k if scaled else 1.0
        betas = {"beta_start": min(1e-4 * factor, 0.5), "beta_end": min(0.02 * factor, 0.999)}
        settings.append(({"T": k, **betas}, {"schedule": "linear", "T": k, "params": betas}))
    return _sweep(data, settings, seeds, scale, **training)


def schedules(
    data: ToyData,
    pairs: Sequence[tuple[float, float]] = DEFAULT_PAIRS,
    others: Sequence[str] = ("cosine", "sigmoid"),
    T: int = 200,
    seeds: Sequence[int] = (0, 1, 2),
    scale: Scale = STANDARD,
    **training,
) -> Iterator[ExperimentEvent]:
    """NLL and EMD against the schedule, at T steps. pairs: (beta_start, beta_end) of linear schedules. others: names of other schedules."""
    settings = []
    for low, high in pairs:
        params = {"beta_start": low, "beta_end": high}
        settings.append(({"schedule": f"linear {low:g}..{high:g}", "T": T}, {"schedule": "linear", "T": T, "params": params}))
    settings += [({"schedule": name, "T": T}, {"schedule": name, "T": T}) for name in others]
    return _sweep(data, settings, seeds, scale, **training)
