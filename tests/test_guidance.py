"""Guidance beside the papers' formulas, with a denoiser whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ddpm_app.guidance import autoguide, cfg, clipped, conditioned

F64 = torch.float64
X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
LABEL = torch.tensor([0, 1, 2, 1])
SIGMA = torch.tensor(2.0, dtype=F64)


class Fake:
    """Predicts something smooth that depends on x, sigma and the class; the null class is 3. Counts what it is asked."""

    def __init__(self):
        self.network = SimpleNamespace(config=SimpleNamespace(num_classes=3))
        self.batches = []

    def __call__(self, x, sigma, label=None):
        label = torch.full((len(x),), 3) if label is None else label
        self.batches.append(len(x))
        return torch.tanh(x / sigma) + (label.to(x.dtype) * 0.3).reshape(-1, 1, 1, 1) * x.sin()


def conditional(x=X):
    return Fake()(x, SIGMA, LABEL)


def unconditional(x=X):
    return Fake()(x, SIGMA, None)


@pytest.mark.parametrize("s", [-1.0, 0.0, 0.5, 1.0, 2.0, 7.5])
def test_cfg_is_the_textbooks_formula_in_noise(s):
    """(1 + w) eps_cond - w eps_uncond with w = s - 1, turned into x0 at the end (Ho & Salimans 2022, eq. 6)."""
    eps = [(X - d) / SIGMA for d in (conditional(), unconditional())]
    w = s - 1
    want = X - SIGMA * ((1 + w) * eps[0] - w * eps[1])
    torch.testing.assert_close(cfg(Fake(), LABEL, s)(X, SIGMA), want)


def test_cfg_in_v():
    """The same in v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0."""
    a = 1 / math.sqrt(1 + 4)
    v = [a * (X - d) / SIGMA - 2 * a * d for d in (conditional(), unconditional())]
    mixed = 3 * v[0] - 2 * v[1]
    want = a * a * X - 2 * a * mixed  # x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v, with x_t = a x
    torch.testing.assert_close(cfg(Fake(), LABEL, 3.0)(X, SIGMA), want)


@pytest.mark.parametrize("s, want, passes", [(1.0, conditional, [4]), (0.0, unconditional, [4]), (2.0, None, [8])])
def test_cfg_costs_what_it_must(s, want, passes):
    fake = Fake()
    got = cfg(fake, LABEL, s)(X, SIGMA)
    assert fake.batches == passes
    if want:
        assert torch.equal(got, want())
    else:
        torch.testing.assert_close(got, 2 * conditional() - unconditional())


@pytest.mark.parametrize("sigma, guided", [(0.5, False), (0.51, True), (2.0, True), (3.0, True), (3.01, False)])
def test_the_interval(sigma, guided):
    """Guidance where 0.5 < sigma <= 3, the plain conditional elsewhere (Kynkaanniemi et al. 2024)."""
    fake = Fake()
    got = cfg(fake, LABEL, 4.0, interval=(0.5, 3.0))(X, torch.tensor(sigma, dtype=F64))
    plain = Fake()(X, sigma, LABEL)
    assert (fake.batches == [8]) == guided and torch.equal(got, plain) == (not guided)
    weak = lambda x, s: Fake()(x, s, None)  # noqa: E731
    got = autoguide(conditioned(Fake(), LABEL), weak, 4.0, (0.5, 3.0))(X, torch.tensor(sigma, dtype=F64))
    assert torch.equal(got, plain) == (not guided)


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.0])
def test_rescale(phi):
    """Lin et al. 2023, eq. 15 and 16: x_final = phi x_cfg std(x_cond) / std(x_cfg) + (1 - phi) x_cfg, a sample at a time."""
    got = cfg(Fake(), LABEL, 5.0, rescale=phi)(X, SIGMA)
    for k in range(4):
        strong, plain = conditional()[k], 5 * conditional()[k] - 4 * unconditional()[k]
        want = phi * plain * strong.std() / plain.std() + (1 - phi) * plain
        torch.testing.assert_close(got[k], want)
    if phi == 1:
        torch.testing.assert_close(got.std((1, 2, 3)), conditional().std((1, 2, 3)))


def test_autoguidance_points_away_from_the_weak():
    strong, weak = (lambda x, s: x * 0.5), (lambda x, s: x * 0.5 + 1)
    torch.testing.assert_close(autoguide(strong, weak, 3.0)(X, SIGMA), X * 0.5 - 2)  # D1 + (s - 1)(D1 - D0)

    def never(x, s):
        raise AssertionError("the weak model was asked although s = 1")

    assert torch.equal(autoguide(strong, never, 1.0)(X, SIGMA), X * 0.5)


def test_clipping_belongs_outside():
    plain = cfg(Fake(), LABEL, 6.0)
    got = clipped(plain)(X, SIGMA)
    assert torch.equal(got, plain(X, SIGMA).clamp(-1, 1)) and plain(X, SIGMA).abs().max() > 1
    assert clipped(lambda x, s: x, 0.0, 0.5)(X, SIGMA).min() == 0


def test_conditioned():
    assert torch.equal(conditioned(Fake(), LABEL)(X, SIGMA), conditional())
    assert torch.equal(conditioned(Fake(), None)(X, SIGMA), unconditional())


def test_points_in_the_plane_are_guided_too():
    def denoiser(x, sigma, label=None):
        return x * (0.5 if label is None else 1) + (0 if label is None else label.reshape(-1, 1))

    denoiser.network = SimpleNamespace(config=SimpleNamespace(num_classes=3))
    x = torch.ones(4, 2)
    assert cfg(denoiser, LABEL, 2.0, rescale=0.5)(x, SIGMA).shape == (4, 2)
