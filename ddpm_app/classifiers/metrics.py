"""Numbers from a classifier's probabilities: confidence, class counts, agreement with the requested labels, calibration."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_app.files import plain

BINS = 10


class Bin(NamedTuple):
    """One bin of a reliability diagram: the images whose highest probability lies between low and high.

    low, high: bounds of the bin, probabilities
    n: number of images in it
    confidence: mean of their highest probabilities, NaN for an empty bin
    accuracy: share of them whose likeliest class is the label, NaN for an empty bin
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class ClassifierReport(NamedTuple):
    """What a classifier says about N images of K classes. Fields from `labelled` on need labels; else they are 0, None or empty.

    n: number of images
    confidence: mean over the images of the highest probability
    confidence_error: standard error of that mean, NaN for one image
    class_counts: (K,) number of images whose likeliest class it is
    distance_from_uniform: total variation between class_counts / n and equal shares, from 0 to 1 - 1/K
    expected_distance: the distance_from_uniform that n uniform draws have on average
    labelled: number of images with a label
    agreement: share of the labelled images whose likeliest class is the label
    agreement_interval: its 95 % Wilson interval
    agreement_by_class: (K,) the same share for each class, None where no image has the label
    confusion: (K, K) numbers of images; row: label, column: likeliest class
    bins: the reliability diagram of the labelled images
    calibration_error: expected calibration error
    """

    n: int
    confidence: float
    confidence_error: float
    class_counts: tuple[int, ...]
    distance_from_uniform: float
    expected_distance: float
    labelled: int = 0
    agreement: float | None = None
    agreement_interval: tuple[float, float] | None = None
    agreement_by_class: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    bins: tuple[Bin, ...] = ()
    calibration_error: float | None = None

    def to_json(self) -> dict:
        """The fields under the keys that stored evaluations use; NaN becomes None."""
        return {STORED_KEYS.get(name, name): value for name, value in plain(self._asdict()).items()}


STORED_KEYS = {
    "class_counts": "counts",
    "distance_from_uniform": "distance",
    "labelled": "judged",
    "agreement_interval": "interval",
    "agreement_by_class": "by_class",
    "calibration_error": "ece",
}


def classifier_agreement(probabilities: Tensor, labels: Tensor | None = None) -> ClassifierReport:
    """Compare a classifier's probabilities (N, K) with the requested labels (N,) int64, -1 for no label.

    Raises ValueError for other shapes or labels out of range."""
    if probabilities.ndim != 2 or not len(probabilities) or (labels is not None and len(labels) != len(probabilities)):
        raise ValueError(f"probabilities are (N, K) with a label each, not {tuple(probabilities.shape)}")
    n, k = probabilities.shape
    if labels is not None and int(labels.max()) >= k:
        raise ValueError(f"a label is {int(labels.max())}; the classifier has {k} classes, counted from 0")
    confidence, predicted = probabilities.double().max(1)
    counts = torch.bincount(predicted, minlength=k)
    error = float(confidence.std() / n**0.5) if n > 1 else math.nan
    report = ClassifierReport(
        n, float(confidence.mean()), error, tuple(counts.tolist()), distance_from_uniform(counts), expected_distance(n, k)
    )
    if labels is None or not (labels >= 0).any():
        return report
    labelled = labels >= 0
    confidence, predicted, labels = confidence[labelled], predicted[labelled], labels[labelled]
    correct = predicted == labels
    confusion = torch.bincount(labels * k + predicted, minlength=k * k).view(k, k)
    totals = confusion.sum(1)
    bins = reliability(confidence, correct)
    return report._replace(
        labelled=len(labels),
        agreement=float(correct.double().mean()),
        agreement_interval=wilson_interval(int(correct.sum()), len(labels)),
        agreement_by_class=tuple(float(confusion[c, c] / totals[c]) if totals[c] else None for c in range(k)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        bins=bins,
        calibration_error=calibration_error(bins),
    )


def distance_from_uniform(counts: Tensor) -> float:
    """Total variation between the shares of counts (K,) and 1/K each: 0 for equal counts, 1 - 1/K where one class has all."""
    shares = counts.double() / counts.sum()
    return float((shares - 1 / len(counts)).abs().sum() / 2)


def expected_distance(n: int, k: int) -> float:
    """The mean of distance_from_uniform over n uniform draws of k classes.

    It sums the mean absolute deviation of each class's count over the k classes. A count is binomial, so its deviation is
    2 v C(n, v) p^v q^(n - v + 1) with v = floor(n p) + 1 (de Moivre 1730)."""
    v = n // k + 1
    log_choose = math.lgamma(n + 1) - math.lgamma(v + 1) - math.lgamma(n - v + 1) if v <= n else -math.inf
    log_p, log_q = -math.log(k), math.log1p(-1 / k)
    deviation = 2 * v * math.exp(log_choose + v * log_p + (n - v + 1) * log_q)
    return k / 2 * deviation / n


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """A reliability diagram with bins of equal width from 0 to 1 (Guo et al. 2017). confidence: (N,). correct: (N,) bool."""
    index = (confidence * bins).long().clamp(0, bins - 1)
    rows = []
    for b in range(bins):
        inside = index == b
        n = int(inside.sum())
        values = (float(confidence[inside].mean()), float(correct[inside].double().mean())) if n else (math.nan, math.nan)
        rows.append(Bin(b / bins, (b + 1) / bins, n, *values))
    return tuple(rows)


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, weighted by the images in each bin."""
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.confidence - b.accuracy) for b in bins if b.n) / total


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share seen as `hits` of n (Wilson 1927). It stays within 0..1, also for 0 and n hits.

    Raises ValueError unless 0 <= hits <= n and n >= 1."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is not a share; 0 to n hits of n >= 1 are accepted")
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
