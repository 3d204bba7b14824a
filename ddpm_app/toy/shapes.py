"""Named sets of points in the plane, and drawn densities.

Each is a mixture of isotropic Gaussians along a shape, so that its density, class posterior and denoiser are known exactly. The
input of a network is (x - center) / scale. Displayed numbers are in the data's units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddpm_app.flags import check_choice
from ddpm_app.toy.density import ExactDenoiser, Mixture

MAX_POINTS = 100_000  # more are subsampled


class ToyDataError(ValueError):
    """One sentence about what is wrong with points, and what is accepted."""


@dataclass(frozen=True)
class ToyData:
    """Points and their known properties.

    name: of the set or the file
    x: (N, d) float32 in the data's units
    label: (N,) int64, all 0 without classes
    classes: their names, empty without classes
    truth: the distribution that x was drawn from, None for uploaded points
    center, scale: of the network's coordinates, (x - center) / scale
    notes: what was changed while reading"""

    name: str
    x: Tensor
    label: Tensor
    classes: tuple[str, ...]
    truth: Mixture | None
    center: Tensor
    scale: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    def to_model(self, x: Tensor) -> Tensor:
        return ((x.double() - self.center) / self.scale).to(x.dtype)

    def from_model(self, x: Tensor) -> Tensor:
        return (x.double() * self.scale + self.center).to(x.dtype)

    def exact(self, own_points: bool = False) -> ExactDenoiser:
        """The exact denoiser in the network's coordinates: of the true density, or of these points alone."""
        truth = self.truth if self.truth is not None and not own_points else Mixture.of(self.x.double(), 0.0, self.label)
        return ExactDenoiser(truth.moved(self.center, self.scale))

    def some(self, n: int) -> ToyData:
        """At most n of the points, always the same random choice. The first n would not do: files are often sorted by class."""
        if len(self) <= n:
            return self
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]
        return replace(self, x=self.x[chosen], label=self.label[chosen])

    def of_class(self, label: int) -> ToyData:
        """The points of one class. Raises ToyDataError if it has none."""
        keep = self.label == label
        if not bool(keep.any()):
            name = self.classes[label] if 0 <= label < len(self.classes) else label
            raise ToyDataError(f"class {name} of {self.name} has no points")
        truth = self.truth.of_class(label) if self.truth is not None else None
        return replace(self, x=self.x[keep], label=torch.zeros(int(keep.sum()), dtype=torch.int64), classes=(), truth=truth)


def split(data: ToyData, n_test: int, seed: int = 0) -> tuple[ToyData, ToyData]:
    """(training, test). The test points are new draws from the true density if it is known, else a held-out tenth of the points."""
    generator = torch.Generator().manual_seed(seed + 7919)
    if data.truth is not None:
        x, label = data.truth.sample(n_test, generator)
        return data, replace(data, x=x.float(), label=label if data.classes else torch.zeros_like(label))
    order = torch.randperm(len(data), generator=generator)
    n = min(n_test, len(data) // 10)
    if n == 0:
        return replace(data, notes=(*data.notes, "fewer than 10 points: measured on the training points")), data
    test, train = order[:n], order[n:]
    return replace(data, x=data.x[train], label=data.label[train]), replace(data, x=data.x[test], label=data.label[test])


# -- named shapes: each returns a mixture and the names of its classes -------------------------------------------------


def _curve(*columns: Tensor) -> Tensor:
    return torch.stack([c.double() for c in columns], 1)


def _middles(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def moons(noise: float = 0.1) -> tuple[Mixture, tuple[str, ...]]:
    """Two half circles, as scikit-learn's make_moons."""
    u = math.pi * _middles(256)
    means = torch.cat([_curve(u.cos(), u.sin()), _curve(1 - u.cos(), 0.5 - u.sin())])
    return Mixture.of(means, noise, torch.arange(2).repeat_interleave(256)), ("upper", "lower")


def circles(noise: float = 0.06) -> tuple[Mixture, tuple[str, ...]]:
    """A circle of radius 1 around one of radius 0.5."""
    u = 2 * math.pi * _middles(256)
    ring = _curve(u.cos(), u.sin())
    return Mixture.of(torch.cat([ring, ring / 2]), noise, torch.arange(2).repeat_interleave(256)), ("outer", "inner")


def swiss_roll(noise: float = 0.05) -> tuple[Mixture, tuple[str, ...]]:
    """A spiral of one and a half turns whose radius grows in proportion to the angle."""
    u = 1.5 * math.pi * (1 + 2 * _middles(512))
    return Mixture.of(_curve(u * u.cos(), u * u.sin()) / 7.0, noise), ()


def eight_gaussians(noise: float = 0.15) -> tuple[Mixture, tuple[str, ...]]:
    """Eight Gaussians on a circle of radius 2."""
    u = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    return Mixture.of(2 * _curve(u.cos(), u.sin()), noise, torch.arange(8)), tuple(f"{45 * k} deg" for k in range(8))


def checkerboard(noise: float = 0.04) -> tuple[Mixture, tuple[str, ...]]:
    """The eight black squares of a 4 x 4 board of side 4. The noise makes their edges soft."""
    inside = _middles(14)
    squares = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    cell = torch.cartesian_prod(inside, inside)
    return Mixture.of(torch.cat([cell + torch.tensor([i - 2.0, j - 2.0]) for i, j in squares]), noise), ()


def pinwheel(noise: float = 0.06) -> tuple[Mixture, tuple[str, ...]]:
    """Five bent arms."""
    r = 1 + 0.3 * torch.special.ndtri(_middles(64))  # along an arm, a normal distribution
    angles = [2 * math.pi * k / 5 + 0.25 * r.exp() for k in range(5)]
    means = torch.cat([_curve(r * a.cos(), r * a.sin()) for a in angles])
    return Mixture.of(means, noise, torch.arange(5).repeat_interleave(64)), tuple(f"arm {k + 1}" for k in range(5))


def spirals(noise: float = 0.06) -> tuple[Mixture, tuple[str, ...]]:
    """Two spirals around each other, one and a half turns each."""
    u = 3 * math.pi * _middles(256).sqrt()
    arm = _curve(-u * u.cos(), u * u.sin()) / 4.0
    return Mixture.of(torch.cat([arm, -arm]), noise, torch.arange(2).repeat_interleave(256)), ("first", "second")


def mixture(noise: float = 0.15, components: int = 3, spread: float = 1.0, layout: int = 0) -> tuple[Mixture, tuple[str, ...]]:
    """Gaussians of width `noise` at random places. spread: standard deviation of their means. layout: seed of their means."""
    if not 0 <= layout < 2**31:
        raise ToyDataError(f"the layout is {layout}; accepted is 0 to {2**31 - 1}")
    if not 1 <= components <= 50 or not 0 < spread <= 10:
        raise ToyDataError(f"a mixture takes 1 to 50 components (not {components}) and a spread above 0, at most 10 (not {spread})")
    g = torch.Generator().manual_seed(layout)
    means = spread * torch.randn(components, 2, generator=g, dtype=torch.float64)
    weights = 0.5 + torch.rand(components, generator=g, dtype=torch.float64)
    names = tuple(f"component {k + 1}" for k in range(components))
    return Mixture.of(means, noise, torch.arange(components), weights), names if components > 1 else ()


SHAPES: dict[str, Callable[..., tuple[Mixture, tuple[str, ...]]]] = {
    "moons": moons,
    "circles": circles,
    "swiss-roll": swiss_roll,
    "eight-gaussians": eight_gaussians,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "spirals": spirals,
    "mixture": mixture,
}


def _from_truth(name: str, truth: Mixture, classes: tuple[str, ...], n: int, seed: int) -> ToyData:
    x, label = truth.sample(n, torch.Generator().manual_seed(seed))
    label = label if classes else torch.zeros_like(label)
    return ToyData(name, x.float(), label, classes, truth, truth.mean(), math.sqrt(truth.variance()))


def make_data(name: str, n: int = 10_000, seed: int = 0, **options) -> ToyData:
    """n points of a named set. options: noise, the width in the data's units; for "mixture" also components, spread and layout.

    Raises ToyDataError that says what is wrong and what is accepted."""
    check_choice("data", name, SHAPES)
    if not 2 <= n <= MAX_POINTS:
        raise ToyDataError(f"the number of points is {n}; accepted is 2 to {MAX_POINTS}")
    if "noise" in options and not 1e-3 <= options["noise"] <= 5:
        raise ToyDataError(f"noise is {options['noise']}; accepted is 0.001 to 5")
    try:
        truth, classes = SHAPES[name](**options)
    except TypeError as error:
        raise ToyDataError(f"{name} does not take these options: {', '.join(options)}") from error
    return _from_truth(name, truth, classes, n, seed)


# -- drawn by hand -------------------------------------------------------------------------------------------------------


def drawn(strokes: Sequence[Sequence[Sequence[float]]], width: float = 0.05, n: int = 10_000, seed: int = 0) -> ToyData:
    """A density drawn by hand. strokes: lists of (x, y) in [-1, 1]; each becomes Gaussians of standard deviation `width` along it."""
    nodes, budget = [], 4000
    if not 0.005 <= width <= 1:
        raise ToyDataError(f"the brush is {width} wide; accepted is 0.005 to 1")
    for stroke in strokes or ():
        points = np.asarray(stroke, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ToyDataError("a stroke is a list of (x, y) pairs of finite numbers")
        points = points.clip(-1, 1)
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        along = np.concatenate([[0], np.cumsum(steps)])
        count = min(1 + int(along[-1] / (width / 2)), budget)
        where = np.linspace(0, along[-1], count) if count > 1 else np.zeros(min(count, len(points)))
        nodes.append(np.stack([np.interp(where, along, points[:, k]) for k in range(2)], 1))
    if not nodes or not sum(map(len, nodes)):
        raise ToyDataError("nothing is drawn yet: draw at least one stroke")
    means = np.concatenate(nodes)
    return _from_truth("drawn", Mixture.of(torch.from_numpy(means[: 4 * budget]), width), (), n, seed)


def principal_axes(x: Tensor) -> Tensor:
    """(d, 2): the two directions of largest variance. The identity for d = 2; for d = 1 the second axis is zero."""
    d = x.shape[1]
    if d <= 2:
        return torch.eye(d, 2, dtype=x.dtype)
    _, _, vt = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    sign = torch.sign(vt[:2].gather(1, vt[:2].abs().argmax(1, keepdim=True)))  # the largest entry is positive
    axes = torch.zeros(d, 2, dtype=torch.float64)
    axes[:, : len(vt[:2])] = (vt[:2] * sign).T
    return axes.to(x.dtype)
