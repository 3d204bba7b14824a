"""Every prediction type is the same denoiser: identities in the textbook's alpha_bar, written without the table under test."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, SIGMA_DATA, WEIGHTS, Denoiser
from ddpm_app.diffusion.schedules import make_schedule

F64 = torch.float64
COSINE = make_schedule("cosine")
G = torch.Generator().manual_seed(0)
X0, EPS = torch.randn(2, 6, 3, 4, 4, generator=G, dtype=F64)
T = torch.tensor([0, 1, 300, 500, 700, 990])
LABEL = torch.tensor([0, 1, 2, 2, 1, 0])


def alphas(t):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of whole steps t (B,), shaped to multiply a batch."""
    bar = COSINE.alpha_bar[t].reshape(-1, 1, 1, 1)
    return bar.sqrt(), (1 - bar).sqrt()


class Exact(nn.Module):
    """The network that knows x0: what each prediction type should say about the input it is given (float64 all through)."""

    def __init__(self, row, x0, t):
        super().__init__()
        self.row, self.x0, self.t, self.seen, self.anchor = row, x0, t, [], nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, t, label=None):
        self.seen.append((x, t, label))
        a, b = alphas(self.t)
        if self.row == "edm":  # Karras et al. 2022, table 1, from the EDM input c_in * x
            s = b / a
            total = (s**2 + SIGMA_DATA**2).sqrt()
            return (self.x0 - SIGMA_DATA**2 / total**2 * (x * total)) * total / (s * SIGMA_DATA) + self.anchor
        eps = (x - a * self.x0) / b
        return {"eps": eps, "v": a * eps - b * self.x0, "x0": self.x0}[self.row] + self.anchor


@pytest.mark.parametrize("row", PREDICTION_TYPES)
def test_all_prediction_types_give_the_same_x0(row):
    """A network that answers truthfully in its own terms: every row reads the same x0 out of it, at any level, one or many."""
    a, b = alphas(T)
    network = Exact(row, X0, T)
    denoiser = Denoiser(network, COSINE, row)
    x = X0 + COSINE.sigma[T].reshape(-1, 1, 1, 1) * EPS
    torch.testing.assert_close(denoiser(x, COSINE.sigma[T], LABEL), X0, rtol=0, atol=1e-6)
    seen, t, label = network.seen[0]
    assert t.dtype == torch.float32 and torch.allclose(t, T.float(), atol=1e-3) and label is LABEL
    if row != "edm":
        torch.testing.assert_close(seen, a * X0 + b * EPS, rtol=1e-6, atol=1e-9)  # the textbook's x_t
    one = torch.full_like(T, 500)
    network = Exact(row, X0, one)
    x = X0 + COSINE.sigma[500] * EPS
    torch.testing.assert_close(Denoiser(network, COSINE, row)(x, COSINE.sigma[500]), X0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("row", PREDICTION_TYPES)
def test_rows_pass_on_an_error_alike(row):
    """An error of F shows in x0 as c_out says: sigma for eps, sigma / sqrt(1 + sigma^2) for v, 1 for x0."""
    network = Exact(row, X0, T)
    with torch.no_grad():
        network.anchor += 0.01
    s = COSINE.sigma[T].reshape(-1, 1, 1, 1)
    want = {"eps": -s, "v": -s / (1 + s**2).sqrt(), "x0": torch.ones_like(s), "edm": s * 0.5 / (s**2 + 0.25).sqrt()}[row]
    error = Denoiser(network, COSINE, row)(X0 + s * EPS, COSINE.sigma[T]) - X0
    torch.testing.assert_close(error, (0.01 * want).expand_as(error), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("row", PREDICTION_TYPES)
def test_the_loss_of_the_truth_is_zero(row):
    network = Exact(row, X0, T)
    loss = Denoiser(network, COSINE, row).loss(X0, T, EPS, LABEL)
    assert loss.shape == (6,) and loss.abs().max() < 1e-8
    seen, t, label = network.seen[0]
    assert torch.equal(t, T) and label is LABEL


@pytest.mark.parametrize("row", PREDICTION_TYPES)
def test_the_loss_is_a_mean_square_of_the_target(row):
    """From a network that is off by 0.1 everywhere: 0.01 a sample, in every row, and a gradient that points back."""
    network = Exact(row, X0, T)
    with torch.no_grad():
        network.anchor += 0.1
    loss = Denoiser(network, COSINE, row).loss(X0, T, EPS)
    torch.testing.assert_close(loss, torch.full_like(loss, 0.01), rtol=1e-3, atol=0)
    loss.mean().backward()
    assert float(network.anchor.grad) == pytest.approx(0.2, rel=1e-3)


def test_the_loss_of_a_zero_network_is_the_mean_square_of_the_target():
    """F = 0: the loss is the target's own mean square, by the papers' definitions."""

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x, t, label=None):
            return torch.zeros_like(x)

    a, b = alphas(T)
    s = b / a
    target = {
        "eps": EPS,
        "v": a * EPS - b * X0,  # Salimans & Ho 2022, eq. 11
        "x0": X0,
        "edm": (X0 - 0.25 / (s**2 + 0.25) * (X0 + s * EPS)) * (s**2 + 0.25).sqrt() / (s * 0.5),
    }
    for row in PREDICTION_TYPES:
        loss = Denoiser(Silent(), COSINE, row).loss(X0.float(), T, EPS.float())
        torch.testing.assert_close(loss.double(), target[row].square().flatten(1).mean(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("row", PREDICTION_TYPES)
def test_weights_in_the_papers_terms(row):
    """Hang et al. 2023: min(SNR, 5) on x0 is min(SNR, 5) / SNR on eps and min(SNR, 5) / (SNR + 1) on v. Salimans & Ho 2022:
    max(SNR, 1) on x0. EDM's own target has c_out^2 of x0's."""
    bar = COSINE.alpha_bar[T]
    snr = bar / (1 - bar)
    on_row = {"eps": 1 / snr, "v": 1 / (snr + 1), "x0": torch.ones_like(snr), "edm": 0.25 / (1 + 0.25 * snr)}[row]
    sigma = COSINE.sigma[T]
    torch.testing.assert_close(WEIGHTS["uniform"](sigma, row), torch.ones_like(sigma))
    torch.testing.assert_close(WEIGHTS["min-snr-5"](sigma, row), snr.clamp(max=5) * on_row, rtol=1e-6, atol=0)
    torch.testing.assert_close(WEIGHTS["truncated-snr"](sigma, row), snr.clamp(min=1) * on_row, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weight", ["min-snr-5", "truncated-snr"])
def test_weighted_losses_do_not_depend_on_the_row(weight):
    """The same wrong x0 costs the same whatever the network predicts."""
    wrong, losses = X0 + 0.05, []
    for row in PREDICTION_TYPES:
        losses.append(Denoiser(Exact(row, wrong, T), COSINE, row).loss(X0, T, EPS, weight=weight))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-3, atol=1e-9)


def test_a_batch_of_levels_is_its_single_levels():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = nn.Parameter(torch.ones(()))

        def forward(self, x, t, label=None):
            return torch.tanh(x * self.anchor + t.reshape(-1, 1, 1, 1) / 500)

    denoiser = Denoiser(Mix(), COSINE, "v")
    x, sigma = (X0 + EPS).float(), torch.tensor([0.01, 0.3, 1.0, 5.0, 60.0, 160.0])
    with torch.no_grad():
        many = denoiser(x, sigma)
        for k in range(6):
            torch.testing.assert_close(denoiser(x[k : k + 1], sigma[k])[0], many[k], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(denoiser(x[k : k + 1], float(sigma[k]))[0], many[k], rtol=1e-5, atol=1e-6)


def test_v_keeps_its_digits_at_the_highest_level():
    """At sigma 160 a float32 c_skip would cost three digits of x0."""
    t = COSINE.sigma_to_t(160.0)
    s, x0 = 160.0, X0

    class V(nn.Module):
        anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x, t, label=None):
            a = 1 / math.sqrt(1 + s * s)
            return ((x.double() - a * x0) / (s * a) * a - s * a * x0).float()

    assert float(t) < 999
    got = Denoiser(V(), COSINE, "v")((x0 + s * EPS).float(), s)
    torch.testing.assert_close(got.double(), x0, rtol=0, atol=1e-5)


def test_unknown_rows_are_named():
    with pytest.raises(ValueError, match="eps, v, x0, edm"):
        Denoiser(nn.Linear(1, 1), COSINE, "velocity")
