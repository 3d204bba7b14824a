"""Guidance beside the papers' formulas, with a denoiser whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ddpm_app.diffusion.guidance import autoguide, cfg, classifier_guided, clipped, conditioned, of_class, similarity_guided
from ddpm_app.diffusion.samplers import heun, last

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


def test_cfg_of_v_equals_cfg_of_x0():
    """The same in v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0."""
    a = 1 / math.sqrt(1 + 4)
    v = [a * (X - d) / SIGMA - 2 * a * d for d in (conditional(), unconditional())]
    mixed = 3 * v[0] - 2 * v[1]
    want = a * a * X - 2 * a * mixed  # x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v, with x_t = a x
    torch.testing.assert_close(cfg(Fake(), LABEL, 3.0)(X, SIGMA), want)


@pytest.mark.parametrize("s, want, passes", [(1.0, conditional, [4]), (0.0, unconditional, [4]), (2.0, None, [8])])
def test_number_of_passes_of_cfg(s, want, passes):
    fake = Fake()
    got = cfg(fake, LABEL, s)(X, SIGMA)
    assert fake.batches == passes
    if want:
        assert torch.equal(got, want())
    else:
        torch.testing.assert_close(got, 2 * conditional() - unconditional())


@pytest.mark.parametrize("sigma, guided", [(0.5, False), (0.51, True), (2.0, True), (3.0, True), (3.01, False)])
def test_cfg_guides_only_within_its_interval(sigma, guided):
    """Guidance where 0.5 < sigma <= 3, the plain conditional elsewhere (Kynkaanniemi et al. 2024)."""
    fake = Fake()
    got = cfg(fake, LABEL, 4.0, interval=(0.5, 3.0))(X, torch.tensor(sigma, dtype=F64))
    plain = Fake()(X, sigma, LABEL)
    assert (fake.batches == [8]) == guided and torch.equal(got, plain) == (not guided)
    weak = lambda x, s: Fake()(x, s, None)  # noqa: E731
    got = autoguide(conditioned(Fake(), LABEL), weak, 4.0, (0.5, 3.0))(X, torch.tensor(sigma, dtype=F64))
    assert torch.equal(got, plain) == (not guided)


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.0])
def test_rescale_is_lin_et_al(phi):
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


def test_clipping_after_guidance():
    plain = cfg(Fake(), LABEL, 6.0)
    got = clipped(plain)(X, SIGMA)
    assert torch.equal(got, plain(X, SIGMA).clamp(-1, 1)) and plain(X, SIGMA).abs().max() > 1
    assert clipped(lambda x, s: x, 0.0, 0.5)(X, SIGMA).min() == 0


def test_conditioned_uses_the_label_or_none():
    assert torch.equal(conditioned(Fake(), LABEL)(X, SIGMA), conditional())
    assert torch.equal(conditioned(Fake(), None)(X, SIGMA), unconditional())


def test_points_in_the_plane_are_guided_too():
    def denoiser(x, sigma, label=None):
        return x * (0.5 if label is None else 1) + (0 if label is None else label.reshape(-1, 1))

    denoiser.network = SimpleNamespace(config=SimpleNamespace(num_classes=3))
    x = torch.ones(4, 2)
    assert cfg(denoiser, LABEL, 2.0, rescale=0.5)(x, SIGMA).shape == (4, 2)


# -- guides with a gradient -----------------------------------------------------------------------------------------------


def mixture():
    """Two classes of isotropic Gaussians in three dimensions: means (2, 3), variance 0.3, equally frequent."""
    return torch.tensor([[1.0, 0.0, -0.5], [-0.7, 0.4, 0.9]], dtype=F64), 0.3


def log_posterior(x, sigma):
    """ln p(class | x, sigma) (B, 2) of the mixture: at level sigma its parts have variance 0.3 + sigma^2."""
    means, variance = mixture()
    return (-((x[:, None] - means) ** 2).sum(2) / 2 / (variance + sigma**2)).log_softmax(1)


def exact(x, sigma, label=None):
    """E[x0 | x] of one class, or of the mixture by the total law: each part's (variance x + sigma^2 mean) / (variance + sigma^2)."""
    means, variance = mixture()
    parts = (variance * x[:, None] + sigma**2 * means) / (variance + sigma**2)
    weight = log_posterior(x, sigma).exp() if label is None else torch.nn.functional.one_hot(label, 2).to(x)
    return (weight[..., None] * parts).sum(1)


POINTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=F64) * 2
CLASSES = torch.arange(40) % 2


@pytest.mark.parametrize("sigma", [0.05, 0.7, 4.0, 40.0])
def test_classifier_guidance_at_scale_1_is_bayes_rule(sigma):
    """The unconditional denoiser, guided by the true posterior, is the class's own denoiser."""
    sigma = torch.tensor(sigma, dtype=F64)
    guided = classifier_guided(exact, of_class(log_posterior, CLASSES), 1.0)
    torch.testing.assert_close(guided(POINTS, sigma), exact(POINTS, sigma, CLASSES))
    eps = (POINTS - exact(POINTS, sigma)) / sigma  # Dhariwal & Nichol 2021, algorithm 2, in noise
    x = POINTS.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(of_class(log_posterior, CLASSES)(x, sigma).sum(), x)
    want = POINTS - sigma * (eps - 3 * sigma * gradient)
    torch.testing.assert_close(classifier_guided(exact, of_class(log_posterior, CLASSES), 3.0)(POINTS, sigma), want)


@pytest.mark.parametrize("churn", [0.0, 20.0])
def test_guided_samples_are_the_classes_own_gaussian(churn):
    """A whole run under inference_mode, as the studio does it: mean and variance of what comes out are the class's."""
    n, sigmas = 4000, torch.cat([torch.logspace(2, -2, 60, dtype=F64), torch.zeros(1, dtype=F64)])
    label, draw, (means, variance) = torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(0), mixture()

    def noise(like):
        return torch.randn(like.shape, generator=draw, dtype=F64)

    with torch.inference_mode():
        guided = classifier_guided(exact, of_class(log_posterior, label), 1.0)
        x = last(heun(guided, noise(torch.empty(n, 3)) * sigmas[0], sigmas, noise, churn))
    assert (x.mean(0) - means[0]).abs().max() < 5 * math.sqrt(variance / n)
    assert (x.var(0) / variance - 1).abs().max() < 0.12


SD2 = 0.25  # the variance that similarity_guided takes data to have


def test_similarity_guidance_of_a_linear_score_is_exact_on_a_gaussian():
    """exp(a . x0) times N(m, sd^2) is N(m + sd^2 a, sd^2): its denoiser is known, and both gradients give it."""
    m, a = torch.tensor([0.3, -0.2, 0.1], dtype=F64), torch.tensor([0.5, 1.0, -2.0], dtype=F64)
    for sigma in torch.tensor([0.02, 0.5, 30.0], dtype=F64):

        def gaussian(x, s, mean=m):
            return (SD2 * x + s**2 * mean) / (SD2 + s**2)

        for through in ("x0", "denoiser"):
            guided = similarity_guided(gaussian, lambda x0: x0 @ a, 0.8, through=through)
            torch.testing.assert_close(guided(POINTS, sigma), gaussian(POINTS, sigma, m + 0.8 * SD2 * a))


def test_similarity_guidance_of_a_quadratic_score():
    """Data N(0, diag(c)): J = c / (c + sigma^2), and the gradient of -|x0 - y|^2 is taken at the predicted x0."""
    c, y, sigma = torch.tensor([0.04, 0.25, 2.0], dtype=F64), torch.tensor([1.0, -1.0, 0.5], dtype=F64), torch.tensor(0.9, dtype=F64)
    shrink = c / (c + sigma**2)
    score = lambda x0: -(x0 - y).square().sum(1)  # noqa: E731
    x0 = shrink * POINTS
    full = similarity_guided(lambda x, s: shrink * x, score, 0.1, through="denoiser")
    torch.testing.assert_close(full(POINTS, sigma), x0 - 0.1 * sigma**2 * shrink * 2 * (x0 - y))
    cheap = similarity_guided(lambda x, s: shrink * x, score, 0.1, through="x0")
    torch.testing.assert_close(cheap(POINTS, sigma), x0 - 0.1 * sigma**2 * SD2 / (sigma**2 + SD2) * 2 * (x0 - y))
    with pytest.raises(ValueError, match="x0 or denoiser"):
        similarity_guided(exact, score, 1.0, through="y")


GUIDES = {
    "classifier": lambda d, i: classifier_guided(d, of_class(log_posterior, CLASSES[: len(POINTS)][i]), 2.0, (0.5, 3.0)),
    "x0": lambda d, i: similarity_guided(d, lambda x0: -(x0**4).sum(1), 2.0, (0.5, 3.0), "x0"),
    "denoiser": lambda d, i: similarity_guided(d, lambda x0: -(x0**4).sum(1), 2.0, (0.5, 3.0), "denoiser"),
}


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_keep_to_their_interval_their_sample_and_their_tensors(guide):
    whole = GUIDES[guide](exact, slice(None))
    for sigma, on in ((0.5, False), (0.51, True), (3.0, True), (3.01, False)):
        sigma = torch.tensor(sigma, dtype=F64)
        assert torch.equal(whole(POINTS, sigma), exact(POINTS, sigma)) != on
    with torch.inference_mode():  # level and points made inside: a gradient is found all the same, and nothing of it leaks out
        inside = whole(POINTS * 1, torch.tensor(1.0, dtype=F64) * 1)
        assert not inside.requires_grad
    outside = whole(POINTS, torch.tensor(1.0, dtype=F64))
    assert torch.equal(inside, outside) and not outside.requires_grad and not POINTS.requires_grad
    for i in (0, 7, 39):
        alone = GUIDES[guide](exact, slice(i, i + 1))(POINTS[i : i + 1], torch.tensor(1.0, dtype=F64))
        torch.testing.assert_close(alone[0], outside[i], rtol=1e-12, atol=1e-12)


def test_a_guide_that_is_off_is_not_asked():
    def never(*_):
        raise AssertionError("asked although the scale is 0")

    sigma = torch.tensor(1.0, dtype=F64)
    for guided in (classifier_guided(exact, never, 0.0), similarity_guided(exact, never, 0.0)):
        assert torch.equal(guided(POINTS, sigma), exact(POINTS, sigma))
    with pytest.raises(ValueError, match=r"the shape \(40, 3\); \(40,\), one value per sample"):
        similarity_guided(exact, lambda x0: x0, 1.0)(POINTS, sigma)
