"""Distances between two sets of features, and the nearest neighbours of one set in another.

torch-fidelity computes the Frechet distance, kernel distance, inception score, precision and recall; the functions here check their
inputs. The extrapolation to infinitely many samples and the search for copies are of this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PARTS = (1, 2, 3, 4)  # the extrapolation uses n, n/2, n/3 and n/4 samples
KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000  # torch-fidelity's defaults
NEIGHBOURHOOD = 3  # of precision and recall (Kynkaanniemi et al. 2019)


class Stats(NamedTuple):
    """Statistics of features, float64.

    n:     number of features
    mean:  (D,)
    cov:   (D, D), unbiased covariance
    """

    n: int
    mean: Tensor
    cov: Tensor


def statistics(features: Tensor) -> Stats:
    """Mean and unbiased covariance of features (N, D), N at least 2, in float64."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features are (N, D) with N of at least 2, not {tuple(features.shape)}")
    mean = features.mean(0, dtype=torch.float64).cpu()
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features.split(4096):  # float64 copies of a part only, to save memory
        centred = part.double().cpu() - mean
        cov.addmm_(centred.T, centred)
    return Stats(len(features), mean, cov / (len(features) - 1))


def frechet_distance(a: Stats, b: Stats) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson & Landau 1982)."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": s.mean.numpy(), "sigma": s.cov.numpy()} for s in (a, b))
    return max(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID], 0.0)


def check_rank(features: Tensor, what: str = "samples") -> None:
    """Raises ValueError if the covariance of features (N, D) is singular: N is not larger than D."""
    n, dims = features.shape
    if n <= dims:
        raise ValueError(f"a Frechet distance in {dims} feature dimensions needs more than {dims} {what}; there are {n}")


class Extrapolation(NamedTuple):
    """A Frechet distance at infinitely many samples.

    value:   the distance
    error:   its standard error, from the fit
    points:  the (n, distance) that the line was fitted to
    """

    value: float
    error: float
    points: list[tuple[int, float]]


def extrapolated(features: Tensor, reference: Stats) -> Extrapolation:
    """The Frechet distance at n -> infinity (Chong & Forsyth 2020): its bias is proportional to 1/n, so a line in 1/n is
    extrapolated to 1/n = 0.

    features: (N, D), in any order (they are shuffled with a fixed seed). The distance at n = N/k is the mean over k parts without
    common samples. Raises ValueError if N is too small for three points."""
    n, dims = features.shape
    usable = [k for k in PARTS if n // k > dims]
    if len(usable) < 3:
        raise ValueError(f"an extrapolation in {dims} feature dimensions needs {3 * (dims + 1)} samples; there are {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    points = []
    for k in usable:
        parts = [frechet_distance(statistics(features[index]), reference) for index in order[: n // k * k].chunk(k)]
        points.append((n // k, sum(parts) / k))
    x = torch.tensor([1 / m for m, _ in points], dtype=torch.float64)
    y = torch.tensor([d for _, d in points], dtype=torch.float64)
    centred = x - x.mean()
    slope = (centred * y).sum() / centred.square().sum()
    value = float(y.mean() - slope * x.mean())
    residual = (y - value - slope * x).square().sum() / (len(x) - 2)
    return Extrapolation(value, float((residual * (1 / len(x) + x.mean() ** 2 / centred.square().sum())).sqrt()), points)


def kernel_distance(features: Tensor, reference: Tensor, subsets: int = KERNEL_SUBSETS) -> tuple[float, float, int]:
    """(mean, deviation over subsets, subset size) of the squared MMD with the cubic kernel (Binkowski et al. 2018): KID on Inception.

    features (N, D), reference (M, D). A subset has 1000 samples, or all if there are fewer. Raises ValueError for fewer than 2 samples."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KERNEL_SUBSET_SIZE, len(features), len(reference))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 samples on either side; there are {len(features)} and {len(reference)}")
    results = kid_features_to_metric(features, reference, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return results[KEY_METRIC_KID_MEAN], results[KEY_METRIC_KID_STD], size


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """(mean, deviation over splits) of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016). logits (N, K).

    Raises ValueError for fewer samples than splits."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < splits:
        raise ValueError(f"an inception score over {splits} splits needs at least {splits} samples; there are {len(logits)}")
    results = isc_features_to_metric(logits, splits)
    return results[KEY_METRIC_ISC_MEAN], results[KEY_METRIC_ISC_STD]


def precision_recall(features: Tensor, reference: Tensor) -> tuple[float, float]:
    """(precision, recall) by nearest-neighbour balls (Kynkaanniemi et al. 2019): the share of samples inside the reference's
    manifold, and of the reference inside the samples'. Raises ValueError for too few samples."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if min(len(features), len(reference)) <= NEIGHBOURHOOD:
        raise ValueError(
            f"precision and recall need more than {NEIGHBOURHOOD} samples on either side; there are {len(features)} and {len(reference)}"
        )
    options = {"prc_neighborhood": NEIGHBOURHOOD, "prc_batch_size": 2000, "save_cpu_ram": True, "verbose": False}
    results = prc_features_to_metric(features, reference, **options)
    return results[KEY_METRIC_PRECISION], results[KEY_METRIC_RECALL]


# -- nearest neighbours -----------------------------------------------------------------------------------------------------


def nearest(
    queries: Tensor, pool: Tensor, k: int = 1, at_most: int = 4096, tick: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """(distances, indices), both (N, k), of the k nearest of pool (M, ...) to each of queries (N, ...), nearest first.

    A distance is the root of the mean squared difference, in grey levels for uint8 images. At most at_most x at_most distances are in
    memory; tick(done, total) is called after each such tile. The distances of the k nearest are computed again from differences, so that
    a copy has distance 0. Raises ValueError for different shapes or too few images."""
    if queries.shape[1:] != pool.shape[1:] or not len(pool) >= k >= 1:
        raise ValueError(f"neighbours of {tuple(queries.shape)} among {tuple(pool.shape)}: the same shape and at least {k} are needed")
    dims = math.prod(queries.shape[1:])
    best, index = torch.full((len(queries), k), math.inf), torch.zeros(len(queries), k, dtype=torch.long)
    tiles = [(a, b) for b in range(0, len(pool), at_most) for a in range(0, len(queries), at_most)]
    centre = pool[:: max(len(pool) // 1000, 1)].float().flatten(1).mean(0)  # values near zero lose the least in float32
    for count, (a, b) in enumerate(tiles):
        q, p = queries[a : a + at_most].float().flatten(1) - centre, pool[b : b + at_most].float().flatten(1) - centre
        squared = torch.addmm(p.square().sum(1)[None] + q.square().sum(1)[:, None], q, p.T, alpha=-2)
        values, columns = squared.topk(min(k, len(p)), dim=1, largest=False)
        values, columns = torch.cat([best[a : a + at_most], values], 1), torch.cat([index[a : a + at_most], columns + b], 1)
        best[a : a + at_most], order = values.topk(k, dim=1, largest=False)
        index[a : a + at_most] = columns.gather(1, order)
        if tick:
            tick(count + 1, len(tiles))
    exact = torch.stack([(queries.float() - pool[column].float()).flatten(1).square().sum(1) for column in index.T], 1)
    exact, order = (exact / dims).sqrt().sort(1)
    return exact, index.gather(1, order)


def closer_than_real(samples: Tensor, real: Tensor, quantile: float = 0.01) -> tuple[float, float]:
    """(share, threshold): the share of samples that are closer to the training set than the closest `quantile` of real test images.

    samples, real: (N,) and (M,) distances to the nearest training image. New images give a share of about `quantile`; a model that
    repeats training images gives much more."""
    threshold = float(real.double().quantile(quantile))
    return float((samples.double() < threshold).double().mean()), threshold
