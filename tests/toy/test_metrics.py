"""Distances and likelihoods against closed forms."""

import math

import pytest
import torch

from ddpm_app.diffusion.guidance import conditioned
from ddpm_app.diffusion.likelihood import flow_levels, flow_rate
from ddpm_app.diffusion.schedules import Schedule, make_schedule
from ddpm_app.toy import metrics
from ddpm_app.toy.density import Mixture
from ddpm_app.toy.shapes import make_data, split
from ddpm_app.toy.training import ToyTrainConfig, train_one


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_emd_of_a_shifted_set_is_the_shift():
    x = normal(2000)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert abs(metrics.emd(x, x + shift) - 0.5) < 1e-9
    assert metrics.emd(x, x[torch.randperm(2000)]) < 1e-6


def test_emd_on_a_line_is_the_difference_of_sorted_points():
    a, b = normal(300, 1), 2 * normal(300, 1, seed=1)
    assert abs(metrics.emd(a, b) - float((a.sort(0).values - b.sort(0).values).abs().mean())) < 1e-9


def test_sliced_wasserstein_of_a_shift_and_of_unequal_sets():
    x = normal(1000, 3)
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    assert abs(metrics.sliced_wasserstein(x, x + shift, 4000) - 3 / math.sqrt(3)) < 0.03
    assert metrics.sliced_wasserstein(x, torch.cat([x, x])) < 0.02


def test_mmd_matches_the_closed_form_of_two_gaussians():
    """E k(X, Y) for X - Y ~ N(m, v I): (w^2 / (w^2 + v))^(d/2) exp(-|m|^2 / (2 (w^2 + v)))."""
    w, m = 0.8, 1.0
    a, b = normal(3000), normal(3000, seed=1) + torch.tensor([m, 0.0], dtype=torch.float64)
    share = w * w / (w * w + 2)
    want = 2 * share - 2 * share * math.exp(-m * m / (2 * (w * w + 2)))
    assert abs(metrics.mmd(a, b, (w,)) - want) < 0.008
    assert abs(metrics.mmd(normal(2000), normal(2000, seed=5))) < 2e-3


@pytest.mark.parametrize("name", ["eight-gaussians", "moons"])
def test_ode_likelihood_of_the_exact_denoiser_is_the_mixtures_density(name):
    data = make_data(name, n=80)
    exact = data.exact()
    x = data.to_model(data.x).double()
    measured = metrics.ode_log_likelihood(conditioned(exact, None), x, flow_levels(1e-3, 160.0, 128))
    assert float((measured - exact.mixture.log_prob(x)).abs().max()) < 1e-3


def test_divergence_is_the_trace_of_the_jacobian():
    mixture = Mixture.of(normal(5, 4), 0.3)
    x = normal(6, 4, seed=2)
    vectors = torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, *x.shape)
    rate, traces = flow_rate(mixture.denoise, x, torch.tensor(0.7), vectors)
    value, trace = x - rate, x.shape[1] - traces.sum(0)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: mixture.denoise(y[None], 0.7)[0]))(x)
    assert torch.allclose(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1), atol=1e-10)
    assert torch.allclose(value, mixture.denoise(x, 0.7), atol=1e-12)


def test_bound_of_a_single_gaussian_has_its_closed_form():
    """For N(0, v I) the denoiser's error is d v s^2 / (v + s^2) on average: every term of eq. 5 is known."""
    v, d = 0.7, 3
    mixture = Mixture.of(torch.zeros(1, d), math.sqrt(v))
    sigma = make_schedule("linear", T=20, beta_end=0.4).sigma
    error = d * v * sigma**2 / (v + sigma**2)
    beta = float(sigma[0] ** 2 / (1 + sigma[0] ** 2))
    top = float(sigma[-1] ** 2)
    want = 0.5 * (d * (top + v) / (1 + top) - d + d * math.log((1 + top) / top))
    want += float((0.5 * (1 / sigma[:-1] ** 2 - 1 / sigma[1:] ** 2) * error[1:]).sum())
    want += 0.5 * float(error[0]) / beta + 0.5 * d * math.log(2 * math.pi * beta)
    x0 = normal(40_000, d) * math.sqrt(v)
    for draws in (64, 8):  # every term, and a draw from each stretch
        terms = metrics.bound_terms(mixture.denoise, x0, sigma, torch.Generator().manual_seed(0), draws)
        measured = metrics.nats(sum(terms.values()))
        assert abs(measured.mean - want) < 4 * measured.error
    truth = 0.5 * d * (1 + math.log(2 * math.pi * v))
    assert want > truth


@pytest.mark.parametrize("schedule, T", [("linear", 1000), ("linear", 100), ("cosine", 50)])
def test_bound_is_never_below_the_true_nll(schedule, T):
    data = make_data("moons", n=4000)
    _, test = split(data, 1500)
    x = test.to_model(test.x).double()
    levels = make_schedule(schedule, T)
    truth = metrics.nats(-data.exact().mixture.log_prob(x))
    exact = metrics.bound(conditioned(data.exact(), None), x, levels)
    learned = train_one(ToyTrainConfig(schedule, T, width=64, steps=300, label_dropout=1.0), data)
    measured = metrics.bound(conditioned(learned, None), x.float(), levels)
    for b in (exact, measured):
        assert b.mean > truth.mean - 3 * math.hypot(b.error, truth.error)
    assert measured.mean > exact.mean - 3 * math.hypot(measured.error, exact.error)  # no denoiser beats the exact one


def test_the_bound_with_many_steps_is_close_to_the_true_nll():
    data = make_data("moons", n=1000)
    x = data.to_model(data.x).double()
    fine = Schedule("fine", torch.linspace(math.log(0.005), math.log(150), 3000, dtype=torch.float64).exp())
    truth = metrics.nats(-data.exact().mixture.log_prob(x))
    measured = metrics.bound(conditioned(data.exact(), None), x, fine)
    assert truth.mean - 3 * measured.error < measured.mean < truth.mean + 0.1 + 3 * measured.error


def test_shift_units_gives_the_likelihood_in_the_units_of_the_data():
    """The likelihood in the data's units does not depend on the scale of the network's coordinates."""
    data = make_data("circles", n=3000)
    inside = metrics.shift_units(metrics.nats(-data.exact().mixture.log_prob(data.to_model(data.x.double()))), 2, data.scale)
    assert abs(inside.mean - metrics.nats(-data.truth.log_prob(data.x)).mean) < 1e-9
    assert metrics.nats(torch.ones(1)).n == 1
