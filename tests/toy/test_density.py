"""Mixtures of Gaussians: Tweedie's formula, the total probability, and sampling with their exact denoiser."""

import pytest
import torch

from ddpm_app.diffusion.guidance import cfg, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.toy.density import Mixture
from ddpm_app.toy.shapes import make_data


def three_gaussians() -> Mixture:
    means = torch.tensor([[1.0, 0.5], [-0.7, 0.2], [0.1, -0.9]])
    return Mixture.of(means, torch.tensor([0.15, 0.3, 0.1]), torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.2, 0.3]))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("label", [None, 0, 1, 2])
def test_exact_denoiser_is_tweedies_formula(sigma, label):
    """D = x + sigma^2 grad ln p_sigma(x), the gradient by automatic differentiation of the log-density."""
    mixture = three_gaussians()
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * (1 + sigma)
    labels = None if label is None else torch.full((50,), label)
    x.requires_grad_(True)
    (score,) = torch.autograd.grad(mixture.log_prob(x, sigma, labels).sum(), x)
    assert torch.allclose(mixture.denoise(x, sigma, labels), x + sigma**2 * score, rtol=1e-7, atol=1e-9)


def test_the_density_integrates_to_one_and_the_null_class_means_all_classes():
    mixture = three_gaussians()
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    for label in (None, 0, 1):
        labels = None if label is None else torch.full((len(plane),), label)
        total = mixture.log_prob(plane, 0.05, labels).exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(float(total) - 1) < 1e-6
    null = torch.full((len(plane),), 2)
    assert torch.equal(mixture.denoise(plane, 0.5, null), mixture.denoise(plane, 0.5))


def test_point_set_denoiser_is_the_weighted_mean_of_the_points():
    points = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = Mixture.of(points, 0.0)
    x, sigma = points[:5] + 0.3, 0.4
    weight = torch.softmax(-(torch.cdist(x, points) ** 2) / (2 * sigma**2), 1)
    assert torch.allclose(exact.denoise(x, sigma), weight @ points, atol=1e-12)
    assert torch.allclose(exact.denoise(points + 1e-4, 1e-3), points, atol=1e-8)  # at low noise: the nearest point


def test_every_solver_samples_all_components_with_the_exact_denoiser():
    data = make_data("eight-gaussians")
    sigmas = sigma_grid(make_schedule("linear"), 60)
    x, noise = start(range(400), (400, 2), sigmas)
    means = data.exact().mixture.means
    for name, sampler in SAMPLERS.items():
        out = last(sampler.steps(conditioned(data.exact(), None), x, sigmas, noise))
        nearest = torch.cdist(out.double(), means).min(1)
        assert float(nearest.values.mean()) < 0.25, name
        assert len(nearest.indices.unique()) == 8, name


def test_guided_samples_of_the_exact_denoiser_have_the_requested_class():
    data = make_data("moons")
    label = torch.ones(200, dtype=torch.int64)
    sigmas = sigma_grid(make_schedule("linear"), 30)
    x, noise = start(range(200), (200, 2), sigmas)
    for scale in (1.0, 3.0):
        out = data.from_model(last(SAMPLERS["ddim"].steps(cfg(data.exact(), label, scale), x, sigmas, noise)))
        assert float((data.truth.class_posterior(out).argmax(1) == 1).double().mean()) > 0.97
