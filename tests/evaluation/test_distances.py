"""Distances between sets of features against closed forms, brute force and known Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddpm_app.evaluation import distances as D
from ddpm_app.evaluation.distances import Stats, frechet_distance, statistics


def gaussian(mean, cov) -> Stats:
    return Stats(1000, torch.tensor(mean, dtype=torch.float64), torch.tensor(cov, dtype=torch.float64))


def test_frechet_distance_where_covariances_commute():
    a = gaussian([0, 0, 1], np.diag([4.0, 9.0, 0.0]))
    b = gaussian([3, 0, -1], np.diag([1.0, 25.0, 0.0]))
    # |m|^2 + sum (sqrt a - sqrt b)^2 = 9 + 4 + (2 - 1)^2 + (3 - 5)^2
    assert frechet_distance(a, b) == pytest.approx(18, abs=1e-9)


def test_frechet_distance_of_any_two_in_the_plane():
    """tr (AB)^1/2 of 2x2 matrices is sqrt(tr AB + 2 sqrt(det AB)): from the characteristic polynomial, no root of a matrix."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = (m @ m.T for m in rng.standard_normal((2, 2, 2)))
        ab = a @ b
        trace = math.sqrt(np.trace(ab) + 2 * math.sqrt(max(np.linalg.det(ab), 0)))
        want = np.trace(a) + np.trace(b) - 2 * trace + 5
        got = frechet_distance(gaussian([1, 0], a), gaussian([0, 2], b))
        assert got == pytest.approx(want, rel=1e-7, abs=1e-7)
        assert frechet_distance(gaussian([0, 2], b), gaussian([1, 0], a)) == pytest.approx(got, rel=1e-9)


def test_frechet_distance_of_samples_approaches_the_truth():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, 4, generator=g)
    y = 2 * torch.randn(100_000, 4, generator=g) + 1
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(8, rel=0.02)  # 4 * 1^2 + 4 * (2 - 1)^2
    assert frechet_distance(statistics(x), statistics(x)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_fewer_samples_than_features():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(statistics(x), statistics(x)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(statistics(x), statistics(x + 1)) == pytest.approx(64, rel=1e-6)


def test_statistics_are_numpys():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 1000  # float32 sums would lose digits here
    s = statistics(x)
    assert s.n == 50 and s.mean.dtype == s.cov.dtype == torch.float64
    assert np.allclose(s.cov, np.cov(x.numpy().astype(np.float64), rowvar=False), rtol=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        statistics(x[:1])


def normal(n: int, dims: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, dims, generator=torch.Generator().manual_seed(seed)) + shift


# -- more samples than there are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_extrapolation_removes_the_bias(shift):
    """Two Gaussians whose true distance is known: a few hundred samples overestimate it, the extrapolation does not."""
    dims, truth = 24, 24 * shift**2
    reference = Stats(10**9, torch.zeros(dims, dtype=torch.float64), torch.eye(dims, dtype=torch.float64))
    biased, mended = [], []
    for seed in range(12):
        x = normal(400, dims, seed, shift)
        biased.append(frechet_distance(statistics(x), reference) - truth)
        limit = D.extrapolated(x, reference)
        mended.append(limit.value - truth)
        assert [n for n, _ in limit.points] == [400, 200, 133, 100] and limit.error > 0
        assert [d for _, d in limit.points] == sorted(d for _, d in limit.points)
        assert limit.points[0][1] == pytest.approx(frechet_distance(statistics(x), reference))
    assert np.mean(biased) > 0.3  # about dims (dims + 3) / (4 n)
    assert abs(np.mean(mended)) < 0.2 * np.mean(biased)


def test_extrapolation_does_not_depend_on_the_order_of_classes():
    x = torch.cat([normal(300, 4, k, shift=k) for k in range(3)])  # sorted by class: consecutive parts would be biased
    value = D.extrapolated(x, statistics(x)).value
    assert abs(value) < 0.05


def test_too_few_samples_are_a_sentence():
    with pytest.raises(ValueError, match="needs more than 32 samples; there are 32"):
        D.check_rank(normal(32, 32, 0))
    D.check_rank(normal(33, 32, 0))
    with pytest.raises(ValueError, match="needs 99 samples"):
        D.extrapolated(normal(90, 32, 0), statistics(normal(90, 32, 1)))
    with pytest.raises(ValueError, match="at least 2 samples"):
        D.kernel_distance(normal(1, 3, 0), normal(5, 3, 1))
    with pytest.raises(ValueError, match="more than 3 samples"):
        D.precision_recall(normal(3, 3, 0), normal(5, 3, 1))
    with pytest.raises(ValueError, match="at least 10 samples"):
        D.inception_score(normal(9, 3, 0))


# -- what torch-fidelity computes, checked by hand ------------------------------------------------------------------------


def test_kernel_distance_is_the_unbiased_mmd():
    x, y = normal(30, 5, 0).double(), normal(30, 5, 1, shift=0.5).double()
    mean, deviation, size = D.kernel_distance(x, y, subsets=3)

    def k(a, b):
        return (a @ b.T / 5 + 1) ** 3

    def off(m):
        return (m.sum() - m.diagonal().sum()) / (30 * 29)

    want = off(k(x, x)) + off(k(y, y)) - 2 * k(x, y).mean()
    assert size == 30 and deviation < 1e-9  # every subset is the whole set
    assert mean == pytest.approx(float(want), rel=1e-6)


def test_kernel_distance_takes_subsets():
    mean, deviation, size = D.kernel_distance(normal(1500, 3, 0), normal(1200, 3, 1), subsets=5)
    assert size == 1000 and 0 < deviation and abs(mean) < 5 * deviation


def test_inception_score_of_certain_and_of_undecided_classes():
    certain = 50 * torch.eye(4)[torch.arange(4000) % 4]
    assert D.inception_score(certain)[0] == pytest.approx(4, rel=1e-2)
    assert D.inception_score(torch.zeros(100, 4))[0] == pytest.approx(1)
    assert D.inception_score(certain[:1].repeat(100, 1))[0] == pytest.approx(1)


def test_precision_and_recall_by_construction():
    real = torch.cat([normal(200, 2, 0, scale=0.01), normal(200, 2, 1, shift=10, scale=0.01)])
    one_mode, everywhere = normal(400, 2, 2, scale=0.005), torch.cat([real + 1e-4, normal(400, 2, 3, shift=-50)])
    precision, recall = D.precision_recall(one_mode, real)
    assert precision > 0.95 and recall < 0.5  # all of it is real, half of what is real is missing
    precision, recall = D.precision_recall(everywhere, real)
    assert precision == pytest.approx(0.5, abs=0.01) and recall == 1


# -- nearest neighbours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [7, 1000])
def test_nearest_is_brute_force(tile):
    g = torch.Generator().manual_seed(0)
    pool = torch.randint(0, 256, (50, 3, 4, 4), generator=g, dtype=torch.uint8)
    queries = torch.randint(0, 256, (20, 3, 4, 4), generator=g, dtype=torch.uint8)
    queries[3], queries[5] = pool[41], pool[41]
    queries[5, 0, 0, 0] ^= 1
    seen = []
    got, index = D.nearest(queries, pool, k=4, at_most=tile, tick=lambda *a: seen.append(a))
    brute = (queries[:, None].double() - pool[None].double()).square().flatten(2).mean(2).sqrt()
    want, order = brute.sort(1)
    assert torch.allclose(got.double(), want[:, :4], rtol=1e-5) and torch.equal(index, order[:, :4])
    assert got[3, 0] == 0 and got[5, 0] == pytest.approx(math.sqrt(1 / 48)) and index[3, 0] == 41
    assert seen[-1] == (len(seen), len(seen)) and len(seen) == (1 if tile == 1000 else 24)


def test_nearest_refuses_other_shapes():
    with pytest.raises(ValueError, match="the same shape"):
        D.nearest(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 3"):
        D.nearest(torch.zeros(2, 3), torch.zeros(2, 3), k=3)


def test_copies_are_closer_than_real_images():
    train, test = normal(500, 16, 0), normal(400, 16, 1)
    usual = D.nearest(test, train)[0][:, 0]
    share, threshold = D.closer_than_real(D.nearest(normal(400, 16, 2), train)[0][:, 0], usual)
    assert share < 0.05 and threshold > 0
    half = torch.cat([train[:200] + 1e-3, normal(200, 16, 3)])
    assert D.closer_than_real(D.nearest(half, train)[0][:, 0], usual)[0] == pytest.approx(0.5, abs=0.05)
