"""The 2-D lab's use cases: what a page shows of a toy, as plain numbers. Knows nothing of a page.

The plane people see is x / sqrt(1 + sigma^2) in the data's units: every level has the spread of the data.
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

from ddpm_app.checkpoints.checkpoint import CheckpointError
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import Denoise, cfg, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, start
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, from_vp, sigma_grid
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
OWN_POINTS = 1000  # of the data in the exact denoiser of its own points
WHICH = ("learned", "exact", "points")


@dataclass(frozen=True)
class PlaneRequest:
    """which: learned, exact (the true density) or points (the data's own). label: None for all. scale: guidance, 1 is off."""

    which: str = "learned"
    sampler: str = "ddim"
    evaluations: int = 60
    n: int = 2000
    label: int | None = None
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.which not in WHICH:
            raise ToyDataError(f"unknown denoiser {self.which!r}; known: {', '.join(WHICH)}")
        if self.sampler not in SAMPLERS:
            raise ToyDataError(f"unknown sampler {self.sampler!r}; known: {', '.join(SAMPLERS)}")
        if not 1 <= self.evaluations <= 1000 or not 1 <= self.n <= 5000 or not 0 <= self.scale <= 20:
            raise ToyDataError("out of range: evaluations 1..1000, points 1..5000, guidance 0..20")


@dataclass(frozen=True)
class Setup:
    """Data and the network trained on it, if any; plain: a network without classes, better where no class is asked for."""

    data: ToyData
    denoiser: Denoiser | None = None
    plain: Denoiser | None = None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule if self.denoiser else ToyTrainConfig().make_schedule()

    def choose(self, which: str, label: int | None = None) -> Denoiser | ExactDenoiser:
        if which == "learned":
            if self.denoiser is None:
                raise ToyDataError(f"no network is trained on {self.data.name} yet: press Train, or look at the exact denoiser")
            return self.plain if label is None and self.plain is not None else self.denoiser
        if which == "points" or self.data.truth is None:  # its cost is particles x points at every level
            return self.data.some(OWN_POINTS).exact(own_points=True)
        return self.data.exact()


class Lab:
    """Shipped models, and the last few that pages have trained, drawn or uploaded, under unguessable names."""

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
        """A named set, with the shipped network where one was trained on just this set; options: the mixture's sliders."""
        made = load(data, **({} if noise is None else {"noise": noise}), **options)
        found = []
        for name in (f"{data}-classes", data):
            try:
                model = load_toy(self.root / name)
            except CheckpointError:
                continue
            if abs(model.scale / made.scale - 1) < 1e-6:
                found.append(model.denoiser)
        return Setup(made, *found)

    def upload(self, path: str) -> Setup:
        return Setup(load(path))

    def draw(self, strokes: Sequence, width: float = 0.03) -> Setup:
        return Setup(drawn(strokes, width))

    def train(self, setup: Setup, config: ToyTrainConfig) -> Iterator[tuple[ToyEvent, Setup]]:
        """Train a network on the data, yielding its state as it goes: the setup of the moment is ready to be looked at.

        Raises ValueError at once, before anything is yielded, for a configuration that cannot be trained."""
        trainer = ToyTrainer([config], setup.data)
        events = train_toys(trainer, every=max(config.steps // 40, 1))
        return ((event, Setup(setup.data, trainer.denoisers()[0])) for event in events)


# -- what is drawn --------------------------------------------------------------------------------------------------------


class Plane:
    """The two directions looked along and the square shown, in the data's units; points outside it are clipped by the page."""

    def __init__(self, data: ToyData):
        self.data, self.axes = data, principal_axes(data.x).double()
        self.center = data.center.double()
        flat = (data.x.double() - self.center) @ self.axes
        self.half = float(max(1.25 * flat.abs().quantile(0.999, dim=0).max(), 2.6 * data.scale))

    def flat(self, x: Tensor) -> Tensor:
        """(N, d) in the network's coordinates -> (N, 2) in [-1, 1] of the square."""
        return (self.data.scale * x.double()) @ self.axes / self.half

    def grid(self, side: int) -> Tensor:
        """(side^2, d) in the network's coordinates, rows from the lowest up; only where the plane is all there is."""
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


def _denoise(setup: Setup, request: PlaneRequest) -> tuple[Denoise, Tensor | None]:
    denoiser = setup.choose(request.which, request.label)
    if request.label is None:
        return conditioned(denoiser, None), None
    _check_label(denoiser, request.label)
    label = torch.full((request.n,), request.label)
    return cfg(denoiser, label, request.scale), label


def _check_label(denoiser: Denoiser | ExactDenoiser, label: int) -> None:
    classes = denoiser.network.config.num_classes
    if classes < 2:
        raise ToyDataError("this network knows no classes: train one with classes, or choose any class")
    if not 0 <= label < classes:
        raise ToyDataError(f"there is no class number {label}: there are {classes}, counted from 0")
    if isinstance(denoiser, ExactDenoiser) and not bool((denoiser.mixture.labels == label).any()):
        raise ToyDataError(f"class number {label} has no points")


def trajectories(setup: Setup, request: PlaneRequest) -> dict:
    """The particles' way from x_T to x_0: frames of int16 positions (thousandths of the square), with sigma for each."""
    plane, data, method = Plane(setup.data), setup.data, SAMPLERS[request.sampler]
    denoise, _ = _denoise(setup, request)
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
    """The pull (D - x), drawn in the square, of a denoiser of WHICH, or how far the learned and the exact lie apart ("difference")."""
    data = setup.data
    if data.dim != 2:
        raise ToyDataError(f"a field is drawn for points of 2 numbers; {data.name} has {data.dim}")
    if which not in (*WHICH, "difference"):
        raise ToyDataError(f"unknown field {which!r}; known: {', '.join(WHICH)}, difference")
    if not 1e-3 <= sigma <= SIGMA_CAP:
        raise ToyDataError(f"sigma is {sigma}; accepted is 0.001 to {SIGMA_CAP:g}")
    plane, level = Plane(data), torch.tensor(sigma, dtype=torch.float64)

    def predict(kind: str, side: int) -> tuple[Tensor, Tensor]:
        y = plane.grid(side)
        request = PlaneRequest(kind, label=label, n=len(y))
        with torch.no_grad():
            x0 = _denoise(setup, request)[0](from_vp(y, level).float(), level).double()
        return y, x0

    if which != "difference":
        y, x0 = predict(which, ARROWS)
        return {"kind": "arrows", "side": ARROWS, "arrows": _rounded(plane.flat(x0 - y)), "sigma": sigma}
    apart = (predict("learned", HEAT)[1] - predict("exact", HEAT)[1]).norm(dim=1) * data.scale
    top = float(apart.max())
    heat = (255 * apart / max(top, 1e-9)).round().int().tolist()
    return {"kind": "heat", "side": HEAT, "heat": heat, "top": top, "sigma": sigma}


def density(setup: Setup, which: str, label: int | None = None) -> dict:
    """ln p on a grid of the square: exact likelihood of the learned sampler, or the truth; rows from the lowest y up."""
    data = setup.data
    if data.dim != 2:
        raise ToyDataError(f"a density is drawn for points of 2 numbers; {data.name} has {data.dim}")
    plane, schedule = Plane(data), setup.schedule
    y = plane.grid(CONTOUR)
    request = PlaneRequest(which, label=label, n=len(y))
    if which == "learned":
        denoise, _ = _denoise(setup, request)
        high = min(float(schedule.sigma[-1]), SIGMA_CAP)
        log_p = metrics.ode_log_likelihood(denoise, y.float(), max(float(schedule.sigma[0]), 0.02), high, 20)
    else:
        exact = setup.choose(which)
        if label is not None:
            _check_label(exact, label)
        labels = None if label is None else torch.full((len(y),), label)
        log_p = exact.mixture.log_prob(y, 0.02 if which == "exact" and data.truth is not None else 0.1, labels)
    log_p = (log_p - log_p.max()).clamp(min=-20).nan_to_num(-20.0)
    return {"side": CONTOUR, "log_p": [round(v, 2) for v in log_p.tolist()]}
