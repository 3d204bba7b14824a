"""What a classifier reads in generated images: confidence, classes, agreement with what was asked for, calibration."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BINS = 10


class Bin(NamedTuple):
    """Images whose highest probability lies in low..high: how many, their mean confidence, the share read rightly (NaN: none)."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class Reading(NamedTuple):
    """counts (K,): how often each class was read. distance: total variation between the classes read and a uniform draw, 0 to
    1 - 1/K; expected_distance: what n uniform draws give by chance. The rest needs labels, else None or empty: agreement with its 95 %
    interval and by class, confusion (K, K) with a row a class asked for, bins and ece of the reliability."""

    n: int
    confidence: float
    confidence_error: float
    counts: tuple[int, ...]
    distance: float
    expected_distance: float
    judged: int = 0
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    by_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    bins: tuple[Bin, ...] = ()
    ece: float | None = None


def read(probabilities: Tensor, labels: Tensor | None = None) -> Reading:
    """probabilities (N, K), labels (N,) int64 with -1 for no class. Raises ValueError for other shapes or labels out of range."""
    if probabilities.ndim != 2 or not len(probabilities) or (labels is not None and len(labels) != len(probabilities)):
        raise ValueError(f"probabilities are (N, K) with a label each, not {tuple(probabilities.shape)}")
    n, k = probabilities.shape
    if labels is not None and int(labels.max()) >= k:
        raise ValueError(f"the class {int(labels.max())} was asked for; the classifier knows {k}, counted from 0")
    confidence, best = probabilities.double().max(1)
    counts = torch.bincount(best, minlength=k)
    error = float(confidence.std() / n**0.5) if n > 1 else math.nan
    reading = Reading(n, float(confidence.mean()), error, tuple(counts.tolist()), from_uniform(counts), chance_distance(n, k))
    asked = torch.full((n,), -1) if labels is None else labels
    known = asked >= 0
    if not known.any():
        return reading
    confidence, best, asked = confidence[known], best[known], asked[known]
    right = best == asked
    confusion = torch.bincount(asked * k + best, minlength=k * k).view(k, k)
    totals = confusion.sum(1)
    by_class = tuple(float(confusion[c, c] / totals[c]) if totals[c] else None for c in range(k))
    bins = reliability(confidence, right)
    return reading._replace(
        judged=len(asked),
        agreement=float(right.double().mean()),
        interval=wilson(int(right.sum()), len(right)),
        by_class=by_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        bins=bins,
        ece=calibration_error(bins),
    )


def from_uniform(counts: Tensor) -> float:
    """Total variation between the shares of counts (K,) and 1/K each: 0 for all alike, 1 - 1/K where a single class is read."""
    shares = counts.double() / counts.sum()
    return float((shares - 1 / len(counts)).abs().sum() / 2)


def chance_distance(n: int, k: int) -> float:
    """What from_uniform gives on average for n draws that are uniform in truth: the mean absolute deviation of each class's count,
    which is binomial (de Moivre 1730: 2 v C(n, v) p^v q^(n - v + 1) with v = floor(n p) + 1), added up over the k classes."""
    v = n // k + 1
    log_choose = math.lgamma(n + 1) - math.lgamma(v + 1) - math.lgamma(n - v + 1) if v <= n else -math.inf
    log_p, log_q = -math.log(k), math.log1p(-1 / k)
    deviation = 2 * v * math.exp(log_choose + v * log_p + (n - v + 1) * log_q)
    return k / 2 * deviation / n


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Equal steps of confidence from 0 to 1 (Guo et al. 2017), confidence (N,), right (N,) bool."""
    index = (confidence * bins).long().clamp(0, bins - 1)
    rows = []
    for b in range(bins):
        mine = index == b
        n = int(mine.sum())
        values = (float(confidence[mine].mean()), float(right[mine].double().mean())) if n else (math.nan, math.nan)
        rows.append(Bin(b / bins, (b + 1) / bins, n, *values))
    return tuple(rows)


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, weighted by the bins' images."""
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.confidence - b.accuracy) for b in bins if b.n) / total


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share seen as `hits` of n (Wilson 1927); stays within 0..1 and is honest at 0 and n hits."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share")
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
