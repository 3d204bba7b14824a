"""The 2-D lab's use cases: what the Lab tab shows, as plain numbers.

The plane shows x / sqrt(1 + sigma^2) in the data's units, so that points of every noise level spread like the data.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import Denoise, cfg, conditioned
from ddpm_app.diffusion.likelihood import flow_levels
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS, SAMPLERS, start
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, from_vp, sigma_grid
from ddpm_app.flags import check, check_choice, setting
from ddpm_app.paths import SHIPPED
from ddpm_app.toy import metrics
from ddpm_app.toy.checkpoint import load_toy
from ddpm_app.toy.density import ExactDenoiser
from ddpm_app.toy.points import load
from ddpm_app.toy.shapes import ToyData, ToyDataError, drawn, principal_axes
from ddpm_app.toy.sweeps import normal
from ddpm_app.toy.training import ToyEvent, ToyTrainConfig, ToyTrainer, train_toys

ROOT = SHIPPED / "toy"
FRAMES = 90  # of an animation, at most
KEPT = 16  # trained models and drawn or uploaded data kept for pages
ARROWS, HEAT, CONTOUR = 20, 48, 44  # side of each grid
EXACT_POINTS = 1000  # of the data that the exact denoiser of the data's points uses
WHICH = ("learned", "exact", "points")


@dataclass(frozen=True)
class PlaneRequest:
    """What to sample; each field states its meaning and bounds. Raises ValueError for a field out of bounds."""

    which: str = setting("learned", "denoiser: of the network, of the true density, or of the data's points", choices=WHICH)
    sampler: str = setting("ddim", "sampler", choices=GENERAL_SAMPLERS)
    evaluations: int = setting(60, "evaluations of the denoiser", low=1, high=1000)
    n: int = setting(2000, "particles", low=1, high=5000)
    label: int | None = setting(None, "number of the class; None for any")
    scale: float = setting(1.0, "guidance scale, 1 is off", low=0, high=20)
    seed: int = setting(0, "seed of the noise", low=0)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Setup:
    """Data and the networks trained on it.

    data: the points
    denoiser: the trained network, None if there is none
    unconditional: a network without classes, used when no class is requested"""

    data: ToyData
    denoiser: Denoiser | None = None
    unconditional: Denoiser | None = None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule if self.denoiser else ToyTrainConfig().make_schedule()

    def choose(self, which: str, label: int | None = None) -> Denoiser | ExactDenoiser:
        if which == "learned":
            if self.denoiser is None:
                raise ToyDataError(f"no network is trained on {self.data.name} yet: press Train, or choose the exact denoiser")
            return self.unconditional if label is None and self.unconditional is not None else self.denoiser
        if which == "points" or self.data.truth is None:  # the cost is particles times points at every level
            return self.data.some(EXACT_POINTS).exact(own_points=True)
        return self.data.exact()


class Lab:
    """The shipped models, and the last KEPT setups that visitors trained, drew or uploaded. Their names cannot be guessed."""

    def __init__(self, root: Path = ROOT):
        self.root, self._kept, self._lock = root, OrderedDict(), threading.Lock()

    def keep(self, setup: Setup) -> str:
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._kept[name] = setup
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return name

    def get(self, name: object) -> Setup | None:
        with self._lock:
            return self._kept.get(name) if isinstance(name, str) else None

    def setup(self, data: str, noise: float | None = None, **options) -> Setup:
        """A named set, with the shipped networks that were trained on the same set. options: of the set "mixture"."""
        points = load(data, **({} if noise is None else {"noise": noise}), **options)
        denoisers = []
        for name in (f"{data}-classes", data):
            try:
                model = load_toy(self.root / name)
            except CheckpointError:
                continue
            if abs(model.scale / points.scale - 1) < 1e-6:
                denoisers.append(model.denoiser)
        return Setup(points, *denoisers)

    def upload(self, path: str) -> Setup:
        return Setup(load(path))

    def draw(self, strokes: Sequence, width: float = 0.03) -> Setup:
        return Setup(drawn(strokes, width))

    def train(self, setup: Setup, config: ToyTrainConfig) -> Iterator[tuple[ToyEvent, Setup]]:
        """Train a network on the data, yielding each event with a setup that holds the network so far.

        Raises ValueError before the first event for a configuration that cannot be trained."""
        trainer = ToyTrainer([config], setup.data)
        events = train_toys(trainer, every=max(config.steps // 40, 1))
        return ((event, Setup(setup.data, trainer.denoisers()[0])) for event in events)


# -- the plane -----------------------------------------------------------------------------------------------------------


class Plane:
    """The projection onto two axes and the square that is shown, in the data's units. The page clips points outside it."""

    def __init__(self, data: ToyData):
        self.data, self.axes = data, principal_axes(data.x).double()
        self.center = data.center.double()
        flat = (data.x.double() - self.center) @ self.axes
        self.half = float(max(1.25 * flat.abs().quantile(0.999, dim=0).max(), 2.6 * data.scale))

    def flat(self, x: Tensor) -> Tensor:
        """(N, d) in the network's coordinates -> (N, 2) in [-1, 1] of the square."""
        return (self.data.scale * x.double()) @ self.axes / self.half

    def grid(self, side: int) -> Tensor:
        """(side^2, 2) in the network's coordinates, the lowest y first. Raises ToyDataError if the points do not have 2 numbers."""
        if self.data.dim != 2:
            raise ToyDataError(f"fields and densities are drawn for points of 2 numbers; {self.data.name} has {self.data.dim}")
        u = torch.linspace(-1, 1, side, dtype=torch.float64) * self.half / self.data.scale
        y, x = torch.meshgrid(u, u, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], 1)


def _rounded(x: Tensor) -> list:
    return (x * 1000).round().int().flatten().tolist()


def points_value(setup: Setup, most: int = 1500) -> dict:
    """The data alone: {points, colour, half, name, classes}, positions in thousandths of the square's half side."""
    plane, data = Plane(setup.data), setup.data
    shown = data.some(most)
    return {
        "points": _rounded(plane.flat(data.to_model(shown.x))),
        "colour": shown.label.tolist(),
        "half": plane.half,
        "name": data.name,
        "classes": list(data.classes),
        "dim": data.dim,
        "notes": list(data.notes),
    }


def clouds_value(data: ToyData, pictures: Sequence[dict]) -> dict:
    """The pictures of the experiment "classes" as positions, as in points_value: {"data", "clouds": [{"method", "scale", "points"}]}."""
    plane = Plane(data)
    clouds = [{**p, "points": _rounded(plane.flat(data.to_model(p["points"])))} for p in pictures if "method" in p]
    return {
        "data": [p for cloud in clouds if cloud["method"] == "data" for p in cloud["points"]],
        "clouds": [cloud for cloud in clouds if cloud["method"] != "data"],
    }


def _denoise(setup: Setup, request: PlaneRequest) -> Denoise:
    denoiser = setup.choose(request.which, request.label)
    if request.label is None:
        return conditioned(denoiser, None)
    _check_label(denoiser, request.label)
    return cfg(denoiser, torch.full((request.n,), request.label), request.scale)


def _check_label(denoiser: Denoiser | ExactDenoiser, label: int) -> None:
    classes = denoiser.network.config.num_classes
    if classes < 2:
        raise ToyDataError('this network has no classes; train one with classes, or choose the class "any"')
    if not 0 <= label < classes:
        raise ToyDataError(f"there is no class number {label}; accepted are 0 to {classes - 1}")
    if isinstance(denoiser, ExactDenoiser) and not bool((denoiser.mixture.labels == label).any()):
        raise ToyDataError(f"class number {label} has no points")


def trajectories(setup: Setup, request: PlaneRequest) -> dict:
    """The particles from x_T to x_0: frames of int16 positions in thousandths of the square's half side, and the sigma of each."""
    plane, data, method = Plane(setup.data), setup.data, SAMPLERS[request.sampler]
    denoise = _denoise(setup, request)
    sigmas = sigma_grid(setup.schedule, method.steps_for(request.evaluations), "karras" if request.sampler == "ipndm" else "log-snr")
    x, noise = start(normal(request.seed), (request.n, data.dim), sigmas)
    every = max(1, -(-(len(sigmas) - 1) // FRAMES))
    frames, levels = [_frame(plane, x, float(sigmas[0]))], [float(sigmas[0])]
    with torch.no_grad():
        for step in method.steps(denoise, x, sigmas, noise):
            if (step.i + 1) % every == 0 or step.i + 1 == step.n:
                frames.append(_frame(plane, step.x, float(step.sigma_next)))
                levels.append(float(step.sigma_next))
    if data.classes:
        colour = setup.choose("exact").mixture.class_posterior(step.x, max(0.02, levels[-1])).argmax(1)
    else:
        colour = torch.zeros(request.n, dtype=torch.int64)
    return {
        "n": request.n,
        "sigma": levels,
        "frames": np.stack(frames).astype("<i2").tobytes(),
        "particles": colour.tolist(),
        "evaluations": step.nfe,
        "finite": bool(step.x.isfinite().all()),
    }


def _frame(plane: Plane, x: Tensor, sigma: float) -> np.ndarray:
    flat = plane.flat(x / (1 + sigma**2) ** 0.5).nan_to_num(0.0, 30, -30)
    return (1000 * flat).clamp(-32_000, 32_000).round().numpy().astype(np.int16)


def field(setup: Setup, which: str, sigma: float, label: int | None = None) -> dict:
    """Arrows D - x of one of the denoisers WHICH, or for "difference" a heat map of the distance between the learned and the exact D."""
    data = setup.data
    check_choice("field", which, [*WHICH, "difference"])
    if not 1e-3 <= sigma <= SIGMA_CAP:
        raise ToyDataError(f"sigma is {sigma}; accepted is 0.001 to {SIGMA_CAP:g}")
    plane, level = Plane(data), torch.tensor(sigma, dtype=torch.float64)

    def predict(kind: str, side: int) -> tuple[Tensor, Tensor]:
        y = plane.grid(side)
        request = PlaneRequest(kind, label=label, n=len(y))
        with torch.no_grad():
            x0 = _denoise(setup, request)(from_vp(y, level).float(), level).double()
        return y, x0

    if which != "difference":
        y, x0 = predict(which, ARROWS)
        return {"kind": "arrows", "side": ARROWS, "arrows": _rounded(plane.flat(x0 - y)), "sigma": sigma}
    distance = (predict("learned", HEAT)[1] - predict("exact", HEAT)[1]).norm(dim=1) * data.scale
    top = float(distance.max())
    heat = (255 * distance / max(top, 1e-9)).round().int().tolist()
    return {"kind": "heat", "side": HEAT, "heat": heat, "top": top, "sigma": sigma}


def density(setup: Setup, which: str, label: int | None = None) -> dict:
    """ln p on a grid of the square, the lowest y first: the exact likelihood of the learned sampler, or an exact density."""
    data = setup.data
    plane, schedule = Plane(data), setup.schedule
    y = plane.grid(CONTOUR)
    request = PlaneRequest(which, label=label, n=len(y))
    if which == "learned":
        denoise = _denoise(setup, request)
        high = min(float(schedule.sigma[-1]), SIGMA_CAP)
        levels = flow_levels(max(float(schedule.sigma[0]), 0.02), high, 20)
        log_p = metrics.ode_log_likelihood(denoise, y.float(), levels)
    else:
        exact = setup.choose(which)
        if label is not None:
            _check_label(exact, label)
        labels = None if label is None else torch.full((len(y),), label)
        log_p = exact.mixture.log_prob(y, 0.02 if which == "exact" and data.truth is not None else 0.1, labels)
    log_p = (log_p - log_p.max()).clamp(min=-20).nan_to_num(-20.0)
    return {"side": CONTOUR, "log_p": [round(v, 2) for v in log_p.tolist()]}
