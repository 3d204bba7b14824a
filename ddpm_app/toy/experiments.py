"""The lab's six experiments, generators of ExperimentEvent for the page and the command line. sweeps.py has two of them.

Measured values are in the data's units. A fixed seed gives the same rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, classifier_guided, conditioned, of_class
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS, SAMPLERS, last
from ddpm_app.diffusion.schedules import GRIDS, Schedule, from_vp, sigma_grid
from ddpm_app.flags import check_choice
from ddpm_app.toy import metrics
from ddpm_app.toy.classifier import decision_grid, denoising_classifier, need_classes, train_classifier
from ddpm_app.toy.density import ExactDenoiser
from ddpm_app.toy.shapes import ToyData, ToyDataError, split
from ddpm_app.toy.sweeps import STANDARD, ExperimentEvent, Scale, data_to_data_emd, draw, normal, schedules, steps
from ddpm_app.toy.training import ToyTrainConfig, train_one

EVALUATIONS = (2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100, 200)  # of a sampler
SHOWN = 400  # points of a picture
SIDE = 48  # of a grid of decisions
CLASSIFIER = dict(steps=4000)  # settings of the network in the experiment "classifier"


def fitted_order(evaluations: Sequence[float], errors: Sequence[float], least: float = 1e-9) -> float | None:
    """Minus the slope of ln error against ln evaluations, fitted to the half of the points with the most evaluations.

    Errors of `least` or less are left out. Returns None for fewer than three points."""
    points = [(n, e) for n, e in sorted(zip(evaluations, errors)) if math.isfinite(e) and e > least]
    points = points[-max(3, (len(points) + 1) // 2) :]
    if len(points) < 3:
        return None
    return -float(np.polyfit(*np.log(np.array(points)).T, 1)[0])


def in_float64(denoiser: Denoiser | ExactDenoiser) -> Denoiser | ExactDenoiser:
    """The same denoiser in float64, so that rounding does not hide a solver's error."""
    if isinstance(denoiser, ExactDenoiser):
        return denoiser
    return Denoiser(copy.deepcopy(denoiser.network).double(), denoiser.schedule, denoiser.prediction_type)


def solvers(
    denoiser: Denoiser | ExactDenoiser,
    schedule: Schedule,
    data: ToyData,
    evaluations: Sequence[int] = EVALUATIONS,
    names: Sequence[str] = tuple(GENERAL_SAMPLERS),
    grid: str = "karras",
    points: int = 1000,
    emd_points: int = 2000,
    seed: int = 0,
) -> Iterator[ExperimentEvent]:
    """Run every sampler from the same x_T on one grid: error, EMD and fitted order.

    The error is the root mean square distance of `points` samples to a 1000-step Heun solution."""
    check_choice("grid", grid, GRIDS)
    for name in names:
        check_choice("sampler", name, GENERAL_SAMPLERS)
    names = list(names)
    denoise, total = conditioned(in_float64(denoiser), None), len(names) * len(evaluations)
    _, test = split(data, emd_points, seed)
    reference_emd = data_to_data_emd(data, test, Scale(points=emd_points, seed=seed))
    # one draw of emd_points for all, because the reference must start at the same points as the samplers
    start = normal(seed)(torch.empty(emd_points, data.dim, dtype=torch.float64))

    def run(name: str, steps: int, z: Tensor) -> Tensor:
        sigmas, method, noise = sigma_grid(schedule, steps, grid), SAMPLERS[name], normal(seed + 1)
        with torch.no_grad():
            return data.from_model(last(method.steps(denoise, from_vp(z, sigmas[0]), sigmas, noise)))

    reference = run("heun", 1000, start[:points])
    yield ExperimentEvent(0.1, "1000-step reference")
    done = 0
    for name in names:
        rows = []
        for count in sorted({SAMPLERS[name].steps_for(n) for n in evaluations}):
            x = run(name, count, start)
            error = float((x[: len(reference)] - reference).square().sum(1).mean().sqrt())
            rows.append(
                {
                    "data": data.name,
                    "sampler": name,
                    "grid": grid,
                    "evaluations": SAMPLERS[name].cost(count),
                    "error": None if SAMPLERS[name].stochastic or not math.isfinite(error) else error,
                    "emd": metrics.emd(x, test.x) if bool(x.isfinite().all()) else None,
                    "emd data to data": reference_emd,
                }
            )
            done += 1
            yield ExperimentEvent(0.1 + 0.9 * done / total, f"{name}, {SAMPLERS[name].cost(count)} evaluations")
        resolved = [(r["evaluations"], r["error"]) for r in rows if r["error"] is not None]
        order = fitted_order(*zip(*resolved)) if resolved else None
        done = (names.index(name) + 1) * len(evaluations)
        yield ExperimentEvent(0.1 + 0.9 * done / total, f"{name} done", tuple({**r, "fitted order": order} for r in rows))


def classes(
    data: ToyData,
    denoiser: Denoiser | None = None,
    scales: Sequence[float] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    label: int = 0,
    points: int = 2000,
    evaluations: int = 50,
    seed: int = 0,
    **training,
) -> Iterator[ExperimentEvent]:
    """Conditional sampling, classifier guidance and classifier-free guidance: EMD to the class's data, NLL and accuracy.

    The NLL is that under the class's true density. The accuracy is the share of samples that a classifier gives the class: the Bayes
    classifier where the true density is known, else a trained one. The pictures: first {"method": "data", "scale", "points"} with
    points of the class, then for each row its "method", "scale" and up to SHOWN of its samples, "points" (n, d)."""
    _check_classes(data, denoiser, label)
    train_data, test = split(data, 4 * points * len(data.classes) // 2, seed)
    of_label = test.of_class(label)
    if denoiser is None:
        yield ExperimentEvent(0.0, "training a conditional network")
        denoiser = train_one(ToyTrainConfig(seed=seed, **training), train_data)
    schedule = denoiser.schedule
    noisy = train_classifier(train_data, schedule, noisy=True, seed=seed)
    clean = None if data.truth is not None else train_classifier(train_data, schedule, noisy=False, seed=seed)
    yield ExperimentEvent(0.3, "classifier trained on noisy points")
    sigmas, labels = sigma_grid(schedule, evaluations), torch.full((points,), label)
    truth = data.truth.of_class(label) if data.truth is not None else None
    plain = conditioned(denoiser, None)
    reference_emd = data_to_data_emd(of_label, of_label, Scale(points=points, seed=seed))
    entropy = float(-truth.log_prob(of_label.x).mean()) if truth is not None else None
    yield ExperimentEvent(0.3, "the class's points", picture={"method": "data", "scale": 1.0, "points": of_label.x[:SHOWN]})
    methods = [("conditional", 1.0, conditioned(denoiser, labels))]
    methods += [("classifier", s, classifier_guided(plain, of_class(noisy, labels), s)) for s in scales]
    methods += [("classifier-free", s, cfg(denoiser, labels, s)) for s in scales]
    for k, (method, s, denoise) in enumerate(methods):
        x = data.from_model(draw(denoise, sigmas, points, data.dim, seed, "ddim"))
        scores = data.truth.class_posterior(x) if clean is None else clean(data.to_model(x), 0.0)
        nll = metrics.nats(-truth.log_prob(x)) if truth is not None else None
        row = {
            "data": data.name,
            "class": data.classes[label],
            "method": method,
            "scale": s,
            "emd": metrics.emd(x, of_label.x[:points]),
            "nll": nll and nll.mean,
            "nll error": nll and nll.error,
            "accuracy": float((scores.argmax(1) == label).double().mean()),
            "nll true": entropy,
            "emd data to data": reference_emd,
        }
        picture = {"method": method, "scale": s, "points": x[:SHOWN]}
        yield ExperimentEvent(0.3 + 0.7 * (k + 1) / len(methods), f"{method}, scale {s:g}", (row,), picture)


def _check_classes(data: ToyData, denoiser: Denoiser | None, label: int = 0) -> None:
    need_classes(data)
    if not 0 <= label < len(data.classes):
        raise ToyDataError(f"{data.name} has no class number {label}; accepted are 0 to {len(data.classes) - 1}")
    model_classes = denoiser.network.config.num_classes if denoiser is not None else len(data.classes)
    if model_classes != len(data.classes):
        raise ToyDataError(f"this needs a model of {data.name}'s {len(data.classes)} classes; the one given has {model_classes}")


def classifier(
    data: ToyData,
    denoiser: Denoiser | None = None,
    draws: int = 128,
    t: int | None = None,
    test_points: int = 4000,
    seed: int = 0,
    **training,
) -> Iterator[ExperimentEvent]:
    """The training-free classifier beside a trained one, and beside the Bayes classifier where the true density is known.

    All are measured on the same test points. The picture, for points of two numbers: {"name", "grid": classes (SIDE, SIDE) with the
    lowest y first, "box": (x0, y0, x1, y1), "points": up to SHOWN test points, "label": their classes}."""
    _check_classes(data, denoiser)
    config = ToyTrainConfig(seed=seed, **{**CLASSIFIER, **training})
    T = (denoiser.schedule if denoiser is not None else config.make_schedule()).T
    if t is not None and not 0 <= t < T:  # checked before the other classifiers are trained
        raise ToyDataError(f"t is {t}; accepted is 0 to {T - 1}")
    train_data, test = split(data, test_points, seed)
    x = data.to_model(test.x)

    def row(name: str, predicted: Tensor, cost: int) -> dict:
        right = (predicted == test.label).double()
        error = float((right.mean() * (1 - right.mean()) / len(right)).sqrt())
        rest = {"error": error, "evaluations a point": cost, "n": len(right)}
        return {"data": data.name, "classifier": name, "accuracy": float(right.mean()), **rest}

    low, high = test.x.min(0).values, test.x.max(0).values
    edge = 0.05 * (high - low)
    box = (*(low - edge).tolist(), *(high + edge).tolist())

    def picture(name: str, classify) -> dict | None:
        if data.dim != 2:
            return None
        grid = decision_grid(classify, torch.tensor(box[:2]), torch.tensor(box[2:]), SIDE).tolist()
        return {"name": name, "grid": grid, "box": box, "points": test.x[:SHOWN].tolist(), "label": test.label[:SHOWN].tolist()}

    def bayes(points: Tensor) -> Tensor:
        return data.truth.class_posterior(points).argmax(1)

    def by_denoising(points: Tensor) -> Tensor:
        with torch.no_grad():
            return denoising_classifier(denoiser, data.to_model(points), denoiser.schedule, draws, seed, t)[0]

    if data.truth is not None:
        yield ExperimentEvent(0.05, "Bayes", (row("bayes", bayes(test.x), 0),), picture("bayes", bayes))
    if denoiser is None:
        denoiser = train_one(config, train_data)
    yield ExperimentEvent(0.5, "conditional network ready")
    trained = train_classifier(train_data, denoiser.schedule, noisy=False, seed=seed)
    shown = picture("trained", lambda points: trained(data.to_model(points), 0.0).argmax(1))
    yield ExperimentEvent(0.6, "classifier trained", (row("trained", trained(x, 0.0).argmax(1), 1),), shown)
    name = "training-free" if t is None else f"training-free, t = {t}"
    result = row(name, by_denoising(test.x), draws * len(data.classes))
    yield ExperimentEvent(0.8, "classified by the denoiser", (result,))
    yield ExperimentEvent(1.0, "decision boundary of the training-free classifier", picture=picture(name, by_denoising))


def likelihood(
    data: ToyData, denoiser: Denoiser | None = None, schedule: Schedule | None = None, scale: Scale = STANDARD, seed: int = 0, **training
) -> Iterator[ExperimentEvent]:
    """The NLL of the true density; then, for the exact and for the learned denoiser, the bound and the exact NLL of the ODE."""
    train_data, test = split(data, max(scale.nll_points, scale.bound_points), seed)
    if denoiser is None:
        yield ExperimentEvent(0.0, "training")
        denoiser = train_one(ToyTrainConfig(seed=seed, **{"label_dropout": 1.0, **training}), train_data)
    schedule = schedule or denoiser.schedule
    x = data.to_model(test.x)

    def row(quantity: str, of: str, value: metrics.Nats) -> dict:
        return {"data": data.name, "quantity": quantity, "of": of, "nats": value.mean, "error": value.error, "n": value.n}

    if data.truth is not None:
        yield ExperimentEvent(0.4, "true density", (row("true nll", "the density", metrics.nats(-data.truth.log_prob(test.x))),))
    for k, (name, d, dtype) in enumerate((("exact denoiser", data.exact(), torch.float64), ("learned denoiser", denoiser, torch.float32))):
        if data.truth is None and name == "exact denoiser":
            continue
        denoise = conditioned(d, None)
        with torch.no_grad():
            bound = metrics.bound(denoise, x[: scale.bound_points].to(dtype), schedule, seed)
        ode = metrics.nll_ode(denoise, x[: scale.nll_points].to(dtype), schedule, 2 * scale.ode_steps)
        bound, ode = (metrics.shift_units(v, data.dim, data.scale) for v in (bound, ode))
        yield ExperimentEvent(0.7 + 0.3 * k, name, (row("bound", name, bound), row("ode nll", name, ode)))


EXPERIMENTS: dict[str, tuple[Callable[..., Iterator[ExperimentEvent]], str]] = {
    "steps": (steps, "NLL and EMD against T, a network trained for each"),
    "schedules": (schedules, "NLL and EMD against the noise schedule"),
    "solvers": (solvers, "every sampler against a 1000-step reference from the same x_T, with its fitted order"),
    "classes": (classes, "conditional sampling, classifier guidance, classifier-free guidance"),
    "classifier": (classifier, "the class whose denoiser predicts the noise best, against a trained classifier"),
    "likelihood": (likelihood, "the bound, the ODE's exact likelihood and the true density's, side by side"),
}
