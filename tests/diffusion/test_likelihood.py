"""Bits per dimension against data whose entropy is known."""

import math

import numpy as np
import pytest
import torch

from ddpm_app.diffusion import likelihood as L
from ddpm_app.diffusion.schedules import make_schedule


def gaussian_denoiser(mean: float, std: float):
    """The exact posterior mean for x0 ~ N(mean, std^2 I)."""

    def denoise(x, sigma):
        s2 = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1)) ** 2
        return (mean + std**2 / (std**2 + s2) * (x.double() - mean)).to(x)

    return denoise


def gaussian_images(n: int, mean=0.1, std=0.25, shape=(1, 4, 4)):
    """uint8 images of that Gaussian and the entropy of a pixel in bits, from the bins' probabilities."""
    g = torch.Generator().manual_seed(0)
    x = mean + std * torch.randn(n, *shape, generator=g, dtype=torch.float64)
    images = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    edges = torch.arange(-0.5, 256, 1.0, dtype=torch.float64) * L.BIN - 1
    cdf = torch.special.ndtr((edges - mean) / std)
    cdf[0], cdf[-1] = 0, 1
    p = cdf.diff()
    return images, float(-(p * p.clamp(min=1e-300).log2()).sum())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_bound_of_the_exact_model_is_the_entropy_to_one_percent(schedule):
    images, entropy = gaussian_images(400)
    bound = L.variational_bound(gaussian_denoiser(0.1, 0.25), images, make_schedule(schedule), draws=999, batch=400)
    assert bound.total == pytest.approx(entropy, rel=0.01)
    assert bound.total > entropy - 3 * bound.standard_error  # it is a bound
    assert bound.total == pytest.approx(bound.L_T + bound.L_mid + bound.L_0)
    assert bound.L_T < 1e-3 and np.isfinite(bound.L_t).all() and bound.L_t.sum() == pytest.approx(bound.L_mid, rel=1e-6)


def test_drawing_a_few_times_is_unbiased():
    images, _ = gaussian_images(2000)
    schedule, denoise = make_schedule("linear"), gaussian_denoiser(0.1, 0.25)
    full = L.variational_bound(denoise, images[:500], schedule, draws=999, batch=500)
    few = L.variational_bound(denoise, images, schedule, draws=10, batch=500)
    assert few.total == pytest.approx(full.total, abs=4 * math.hypot(few.standard_error, full.standard_error))


def test_the_levels_add_up_and_leave_nothing_out():
    images, _ = gaussian_images(24)
    bound = L.variational_bound(gaussian_denoiser(0.1, 0.25), images, make_schedule("linear"), draws=7)
    assert [bound.levels[0][0], bound.levels[-1][1]] == [2, 1000]
    assert all(b[0] == a[1] + 1 for a, b in zip(bound.levels, bound.levels[1:]))
    assert sum(bits for *_, bits in bound.levels) == pytest.approx(bound.L_mid, rel=1e-9)


def test_a_wrong_model_needs_more_bits():
    images, entropy = gaussian_images(200)
    wrong = L.variational_bound(gaussian_denoiser(0.3, 0.25), images, make_schedule("linear"), draws=100)
    assert wrong.total > entropy + 0.1


def test_step_kl_is_the_kl_of_the_two_gaussians():
    """Against eq. 6, 7 and the closed form of a Gaussian KL, written out in alpha and beta."""
    schedule = make_schedule("linear")
    beta, bar = schedule.beta, schedule.alpha_bar
    x0, predicted = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.randn(5, 1, 3, 3, dtype=torch.float64)
    t = torch.tensor([2, 3, 100, 500, 1000])
    k = t - 1
    tilde = beta[k] * (1 - bar[k - 1]) / (1 - bar[k])
    difference = (bar[k - 1].sqrt() * beta[k] / (1 - bar[k]))[:, None, None, None] * (x0 - predicted)
    want = (difference.square() / (2 * tilde[:, None, None, None])).flatten(1).sum(1)
    assert torch.allclose(L.step_kl(x0, predicted, schedule, t, "small"), want, rtol=1e-6)
    q = torch.distributions.Normal(difference, tilde.sqrt()[:, None, None, None].expand_as(difference))
    p = torch.distributions.Normal(torch.zeros_like(difference), beta[k].sqrt()[:, None, None, None].expand_as(difference))
    want = torch.distributions.kl_divergence(q, p).flatten(1).sum(1)
    assert torch.allclose(L.step_kl(x0, predicted, schedule, t, "large"), want, rtol=1e-6)


def test_decoder_probabilities_sum_to_one_even_far_away():
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    for mean in (-1.5, -1.0, 0.003, 0.9, 2.0):
        nll = L.decoder_nll(levels, torch.full((256, 1, 1, 1), mean), 0.01)
        assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-6)
        assert torch.isfinite(nll).all()


def test_flow_density_of_the_exact_model():
    std, shape = 0.5, (2,)
    x = 0.3 + std * torch.randn(50, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(math.log(1e-3), math.log(5000), 2001, dtype=torch.float64).exp()
    got, _ = L.flow_log_density(gaussian_denoiser(0.3, std), x, grid, exact=True)
    variance = std**2 + 1e-6
    want = -0.5 * ((x - 0.3).square().sum(1) / variance + 2 * math.log(2 * math.pi * variance))
    # at sigma = 5000 the prior N(0, 1 + sigma^2) and the exact marginal N(0.3, std^2 + sigma^2) are within 1e-4 nats
    assert torch.allclose(got, want, atol=1e-3)
    probed, estimates = L.flow_log_density(gaussian_denoiser(0.3, std), x, grid, probes=2)
    assert estimates.shape == (2, 50) and torch.allclose(probed, want, atol=1e-3)  # Rademacher is exact for a diagonal Jacobian


@pytest.mark.parametrize("std", [0.25, 0.02])  # the second is two and a half grey levels, where the lowest level's noise would show
def test_flow_bits_of_the_exact_model_are_the_entropy_to_one_percent(std):
    images, entropy = gaussian_images(400, std=std)
    flow = L.flow_likelihood(gaussian_denoiser(0.1, std), images, make_schedule("linear"), steps=100, batch=400, probes=2)
    assert flow.bits == pytest.approx(entropy, rel=0.01)
    assert flow.evaluations == 201 and flow.n == 400 and flow.probe_error < 1e-6


@pytest.mark.parametrize("order", [2, 4])
def test_the_flow_integrator_converges_with_its_order(order):
    """Twice the steps divide the error of a Gaussian's log-density by 2^order."""
    x = 0.3 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    errors = []
    for steps in (16, 32, 64):
        levels = L.flow_levels(0.01, 80.0, steps)
        log_density, _ = L.flow_log_density(gaussian_denoiser(0.1, 0.3), x, levels, exact=True, order=order)
        exact = torch.distributions.Normal(0.1, math.sqrt(0.3**2 + 0.01**2)).log_prob(x).sum(1)
        prior = torch.distributions.Normal(0.1, math.sqrt(0.3**2 + 80.0**2))  # the integrator's prior is N(0, 1 + 80^2)
        z = 0.1 + (x - 0.1) * math.sqrt((0.3**2 + 80.0**2) / (0.3**2 + 0.01**2))
        exact = exact + (torch.distributions.Normal(0.0, math.sqrt(1 + 80.0**2)).log_prob(z) - prior.log_prob(z)).sum(1)
        errors.append(float((log_density - exact).abs().mean()))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.5)


def test_hutchinson_error_bar_covers_the_exact_trace():
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64) * 0.1
    a = (a + a.T) / 2

    def denoise(x, sigma):  # linear with a full Jacobian
        return (x @ a) / (1 + float(sigma) ** 2)

    x = torch.randn(3, 6, dtype=torch.float64)
    grid = torch.linspace(math.log(0.1), math.log(50), 101, dtype=torch.float64).exp()
    exact, _ = L.flow_log_density(denoise, x, grid, exact=True)
    mean, estimates = L.flow_log_density(denoise, x, grid, probes=200)
    error = estimates.std(0) / 200**0.5
    assert (error > 0).all() and ((mean - exact).abs() < 4 * error).all()
