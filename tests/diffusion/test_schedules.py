"""Schedules beside diffusers' and the formulas of the papers; grids by their properties and beside diffusers' time steps."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_app.diffusion.schedules import GRIDS, SCHEDULES, SIGMA_CAP, Schedule, add_noise, make_schedule, sigma_grid, to_vp

F64 = torch.float64


@pytest.mark.parametrize(
    "name, diffusers_name, betas",
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("linear", "linear", (5e-4, 0.01)),
        ("scaled-linear", "scaled_linear", (8.5e-4, 0.012)),
        ("quadratic", "scaled_linear", (1e-4, 0.02)),  # the "quad" of Ho et al.'s code is latent diffusion's "scaled linear"
        ("cosine", "squaredcos_cap_v2", None),
    ],
)
@pytest.mark.parametrize("T", [1000, 137])
def test_betas_are_diffusers(name, diffusers_name, betas, T):
    diffusers = pytest.importorskip("diffusers")
    ours = make_schedule(name, T, **(dict(beta_start=betas[0], beta_end=betas[1]) if betas else {}))
    extra = dict(beta_start=betas[0], beta_end=betas[1]) if betas else {}
    other = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=diffusers_name, **extra)
    assert ours.T == T and ours.name == name
    torch.testing.assert_close(ours.beta, other.betas.double(), rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(ours.alpha_bar, other.alphas_cumprod.double(), rtol=3e-4, atol=1e-9)  # theirs is float32


def test_defaults_are_the_papers():
    linear = make_schedule()
    assert linear.name == "linear" and linear.T == 1000
    assert linear.beta[0] == pytest.approx(1e-4, rel=1e-9) and linear.beta[-1] == pytest.approx(0.02, rel=1e-9)
    bar = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(1000))
    assert linear.alpha_bar[-1] == pytest.approx(bar, rel=1e-9)


def test_cosine_alpha_bar_is_equation_17():
    f = [math.cos((k / 500 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(501)]
    want = torch.tensor([v / f[0] for v in f[1:-1]], dtype=F64)
    torch.testing.assert_close(make_schedule("cosine", 500).alpha_bar[:-1], want, rtol=1e-9, atol=0)
    assert make_schedule("cosine", 500).beta[-1] == pytest.approx(0.999)


@pytest.mark.parametrize("tau, start, end", [(1.0, -3.0, 3.0), (0.7, 0.0, 3.0)])
def test_sigmoid_alpha_bar_is_chens(tau, start, end):
    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    a, b = sigmoid(start / tau), sigmoid(end / tau)  # Chen 2023, algorithm 1: sigmoid schedule of t in [0, 1]
    gamma = [(b - sigmoid((k / 200 * (end - start) + start) / tau)) / (b - a) for k in range(1, 200)]
    ours = make_schedule("sigmoid", 200, start=start, end=end, tau=tau).alpha_bar
    torch.testing.assert_close(ours[:-1], torch.tensor(gamma, dtype=F64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 10, 1000, 4000])
def test_sigma_alpha_bar_beta_and_log_snr_agree(name, T):
    if name in ("linear", "scaled-linear", "quadratic") or T > 2:
        s = make_schedule(name, T)
        assert s.sigma.dtype == F64 and len(s.sigma) == T and bool((s.sigma.diff() > 0).all())
        product = torch.cumprod(1 - s.beta, 0)
        torch.testing.assert_close(s.alpha_bar, product, rtol=1e-6, atol=0)
        torch.testing.assert_close(s.sigma, ((1 - s.alpha_bar) / s.alpha_bar).sqrt(), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(s.log_snr, (s.alpha_bar / (1 - s.alpha_bar)).log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_and_level_are_inverse(name):
    s = make_schedule(name)
    t = torch.arange(1000, dtype=F64)
    torch.testing.assert_close(s.t_to_sigma(t), s.sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(s.sigma_to_t(s.sigma), t, rtol=0, atol=1e-6)
    between = torch.rand(3, 50, dtype=F64, generator=torch.Generator().manual_seed(0)) * 999
    torch.testing.assert_close(s.sigma_to_t(s.t_to_sigma(between)), between, rtol=0, atol=1e-6)
    assert s.t_to_sigma(0.5) == pytest.approx(math.sqrt(s.sigma[0] * s.sigma[1]))  # halfway in ln sigma
    assert s.sigma_to_t(1e-9) == 0 and s.sigma_to_t(1e9) == 999 and s.sigma_to_t(0.0) == 0
    assert s.sigma_to_t(torch.tensor(1.0)).shape == ()


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("lineer",), "lineer"),
        (("linear", 1), "2 to 100000"),
        (("linear", 0), "2 to 100000"),
        (("linear", 10**9), "2 to 100000"),
        (("linear", 10.5), "2 to 100000"),
        (("linear", True), "2 to 100000"),
        (("linear", 10, {"beta_start": 0.0}), "beta_start"),
        (("linear", 10, {"beta_end": 1.0}), "beta_end"),
        (("linear", 10, {"beta_end": float("nan")}), "beta_end"),
        (("linear", 10, {"gamma": 1.0}), "gamma"),
        (("cosine", 10, {"beta_start": 0.1}), "beta_start"),
        (("cosine", 10, {"s": -1.0}), "cosine"),
        (("sigmoid", 10, {"tau": 0.0}), "sigmoid"),
        (("linear", 10, {"beta_end": "0.1"}), "beta_end"),
    ],
)
def test_bad_parameters_are_named(arguments, word):
    name, T, extra = (*arguments, 1000, {})[:3] if len(arguments) == 1 else (*arguments, {})[:3]
    with pytest.raises(ValueError, match=word):
        make_schedule(name, T, **extra)


# -- grids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("T", [2, 10, 1000])
def test_every_grid_falls_to_zero(kind, name, T):
    s = make_schedule(name, T)
    for n in (1, 2, 3, 7, 10, 50, 250, 999, 1000):
        grid = sigma_grid(s, n, kind)
        assert grid.shape == (n + 1,) and grid.dtype == F64 and grid.device.type == "cpu"
        assert grid[-1] == 0 and bool((grid.diff() < 0).all()), (kind, name, T, n)
        assert grid[0] <= SIGMA_CAP and grid[0] <= s.sigma[-1] * (1 + 1e-9)
        top = min(float(s.sigma[s.sigma <= SIGMA_CAP][-1]), 80.0 if kind == "karras" else SIGMA_CAP)
        assert grid[0] >= top * (1 - 1e-9), "the first level is the highest one allowed"


@pytest.mark.parametrize("kind", GRIDS)
def test_every_grid_can_start_lower(kind):
    s = make_schedule("cosine")
    for start in (float(s.sigma[0]), float(s.sigma[0]) / 2, float(s.sigma[1]), 0.5, 3.21, 40.0):
        for n in (1, 2, 5, 60, 1000):
            grid = sigma_grid(s, n, kind, start)
            assert len(grid) == n + 1 and grid[-1] == 0 and bool((grid.diff() < 0).all()), (kind, start, n)
            assert grid[0] == pytest.approx(start, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 18, 20, 25, 30, 50, 100, 250, 333, 500, 1000])
@pytest.mark.parametrize("T", [1000, 400])
def test_uniform_t_is_diffusers_trailing(n, T):
    diffusers = pytest.importorskip("diffusers")
    n = min(n, T)  # more steps than levels is not something diffusers does
    other = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing="trailing")
    other.set_timesteps(n)
    s = make_schedule("linear", T)
    assert s.sigma_to_t(sigma_grid(s, n)[:-1]).round().long().tolist() == other.timesteps.tolist()


def test_the_full_chain_is_the_schedule():
    s = make_schedule("linear")
    assert torch.equal(sigma_grid(s, 1000)[:-1].flip(0), s.sigma)


def test_quadratic_t_spends_more_at_low_noise():
    s = make_schedule("linear")
    t = s.sigma_to_t(sigma_grid(s, 50, "quadratic-t")[:-1])
    want = torch.tensor([1000 * ((50 - k) / 50) ** 2 - 1 for k in range(42)], dtype=F64)  # the rest is crowded together
    torch.testing.assert_close(t[:42], want, rtol=0, atol=0.51)
    assert (t < 250).sum() > (sigma_grid(s, 50)[:-1] < s.sigma[250]).sum()


def test_karras_is_equation_5():
    s = make_schedule("linear")
    low, high, n = float(s.sigma[0]), 80.0, 12
    want = [(high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n)]
    torch.testing.assert_close(sigma_grid(s, n, "karras")[:-1], torch.tensor(want, dtype=F64), rtol=1e-9, atol=0)


def test_log_snr_steps_are_equal():
    ratio = sigma_grid(make_schedule("linear"), 20, "log-snr")[:-1].log().diff()
    torch.testing.assert_close(ratio, ratio[:1].expand(19), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "arguments, word", [((0,), "at least 1"), ((-3,), "at least 1"), ((5, "spiral"), "spiral"), ((5, "karras", 0.0), "above 0")]
)
def test_bad_grids_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        sigma_grid(make_schedule(), *arguments)
    with pytest.raises(ValueError, match="above 0"):
        sigma_grid(make_schedule(), 5, "uniform-t", float("nan"))


# -- noise --------------------------------------------------------------------------------------------------------------


def test_noise_in_the_textbooks_picture():
    s, g = make_schedule("cosine"), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, 8, 8, generator=g, dtype=F64)
    t = torch.tensor([0, 10, 500, 998])
    bar = s.alpha_bar[t].reshape(4, 1, 1, 1)
    want = bar.sqrt() * x0 + (1 - bar).sqrt() * eps  # Ho et al. 2020, eq. 4
    torch.testing.assert_close(to_vp(add_noise(x0, s.sigma[t], eps), s.sigma[t]), want, rtol=1e-9, atol=1e-12)
    one = to_vp(add_noise(x0, s.sigma[10], eps), s.sigma[10])
    torch.testing.assert_close(one[1], want[1], rtol=1e-9, atol=1e-12)
    assert to_vp(x0.float(), 3.0).dtype == torch.float32


def test_a_schedule_of_one_level():
    s = Schedule("one", torch.tensor([2.0], dtype=F64))
    assert s.sigma_to_t(torch.tensor([0.1, 5.0])).tolist() == [0, 0] and s.t_to_sigma(0) == 2.0
