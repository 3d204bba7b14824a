"""Every solver against a truth that is not ours: an exact Gaussian, diffusers' schedulers, the papers' formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddpm_app.diffusion import samplers
from ddpm_app.diffusion.samplers import SAMPLERS, advance, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
F64 = torch.float64
LINEAR = make_schedule("linear")
MEAN, SD = torch.tensor([0.7, -0.4], dtype=F64), 0.5


def gaussian(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, SD^2): the exact denoiser."""
    return MEAN + SD**2 / (SD**2 + sigma**2) * (x - MEAN)


def flow(x, s, r):
    """Where the probability-flow ODE of that Gaussian takes x from level s to r."""
    return MEAN + (x - MEAN) * math.sqrt((SD**2 + r**2) / (SD**2 + s**2))


MODES = torch.tensor([[1.0, 0.5], [-0.7, 0.2], [0.1, -0.9]], dtype=F64)


def mixture(x, sigma):
    """E[x0 | x] for three Gaussians of deviation 0.15."""
    var = torch.as_tensor(sigma, dtype=F64).reshape(-1, 1) ** 2 + 0.15**2
    weight = torch.softmax(-((x[:, None] - MODES) ** 2).sum(-1) / (2 * var), 1)
    return (weight[..., None] * (MODES + (0.15**2 / var)[..., None] * (x[:, None] - MODES))).sum(1)


def eps_net(x_vp, t):
    """The mixture as diffusers' schedulers expect a network: x_t and t in, noise out."""
    s = LINEAR.t_to_sigma(t)
    x = x_vp * (1 + s**2).sqrt()
    return (x - mixture(x, s)) / s


START = torch.randn(32, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def to_ve(x_vp, sigma):
    return x_vp * (1 + sigma**2).sqrt()


# -- order of convergence -----------------------------------------------------------------------------------------------


def slope(method, space, counts=(32, 64, 128), high=4.0, low=0.05, **options) -> float:
    """Negative slope of ln(error) over ln(steps) on the Gaussian, from level 4 to 0.05."""
    x, errors = START * 3, []
    for n in counts:
        u = torch.linspace(0, 1, n + 1, dtype=F64)
        grid = high + u * (low - high) if space == "uniform" else (math.log(high) + u * math.log(low / high)).exp()
        errors.append(float((last(method(gaussian, x, grid, **options)) - flow(x, high, low)).abs().max()))
    assert all(a > b > 1e-13 for a, b in zip(errors, errors[1:])), errors
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize(
    "name, space, order", [("ddim", "log", 1), ("heun", "log", 2), ("heun", "uniform", 2), ("dpmpp-2m", "log", 2), ("unipc", "log", 3)]
)
def test_order_of_convergence(name, space, order):
    assert slope(SAMPLERS[name].run, space) == pytest.approx(order, abs=0.25)
    assert SAMPLERS[name].order == order


def test_order_of_ipndm():
    """Its first step is Euler's, whose error of h^2 is all that remains in the end; past the three start-up steps it is of order 4."""
    assert slope(samplers.ipndm, "uniform", counts=(512, 1024, 2048), high=0.6) == pytest.approx(2, abs=0.25)
    counts, errors = (32, 64, 128), []
    for n in counts:  # dx/dsigma = sin(3 sigma), whatever x: the error of the moves after the third, added up
        x, error = torch.zeros(1, 1, dtype=F64), 0.0
        for step in samplers.ipndm(lambda x, s: x - s * torch.sin(3 * s), x, torch.linspace(3.0, 0.5, n + 1, dtype=F64)):
            exact = (math.cos(3 * step.sigma) - math.cos(3 * step.sigma_next)) / 3
            error += (step.i >= 3) * abs(float(step.x - x) - exact)
            x = step.x
        errors.append(error)
    assert -float(np.polyfit(np.log(counts), np.log(errors), 1)[0]) == pytest.approx(4, abs=0.25)
    assert SAMPLERS["ipndm"].order == 4


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_adams_bashforth_orders(degree):
    """On equal steps the k-th slope integrates polynomials of degree k - 1 exactly: one step of Euler, then 2, 3, 4, 4, ..."""
    grid, x = torch.linspace(3.0, 1.0, 11, dtype=F64), torch.zeros(1, 1, dtype=F64)
    exact, errors = lambda s: s ** (degree + 1) / (degree + 1), []
    for step in samplers.ipndm(lambda x, s: x - s * s**degree, x, grid):  # dx/dsigma = (x - D) / sigma = sigma^degree
        move = float(step.x - x)
        errors.append(abs(move - float(exact(step.sigma_next) - exact(step.sigma))))
        x = step.x
    for i, error in enumerate(errors):
        assert (error < 1e-12) == (degree <= min(i, 3)), (i, error)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp-2m", "unipc", "ipndm"])
def test_deterministic_samplers_reach_the_same_picture(name):
    grid = sigma_grid(LINEAR, 400, "karras")
    x = to_ve(START, grid[0])
    steps = list(SAMPLERS[name].run(mixture, x, grid))
    truth = last(samplers.heun(mixture, x, sigma_grid(LINEAR, 4000, "karras")))
    assert (steps[-1].x - truth).abs().max() < (0.05 if name == "ddim" else 2e-3)
    if name not in ("heun", "ipndm"):
        torch.testing.assert_close(steps[-1].x, steps[-1].x0)  # the move to level 0 lands on the prediction


# -- step for step beside diffusers -------------------------------------------------------------------------------------


def diffusers_states(scheduler, n, **options):
    """States after every step in diffusers' coordinates, and the noise it drew."""
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    drawn, draw = [], getattr(module, "randn_tensor", None)

    def record(*args, **kw):
        drawn.append(draw(*args, **kw))
        return drawn[-1]

    scheduler.set_timesteps(n)
    x, states = START.clone(), []
    torch.manual_seed(5)
    try:
        if draw:
            module.randn_tensor = record
        for t in scheduler.timesteps:
            x = scheduler.step(eps_net(x, t), t, x, **options).prev_sample
            states.append(x)
    finally:
        if draw:
            module.randn_tensor = draw
    return states, drawn


def compare(run, n, states, drawn=(), upto=None):
    grid = sigma_grid(LINEAR, n)
    noise = iter(drawn)
    steps = list(run(to_ve(START, grid[0]), grid, lambda x: next(noise)))
    for step, state in list(zip(steps, states, strict=True))[:upto]:
        ours = step.x / (1 + step.sigma_next**2).sqrt()
        assert (ours - state).abs().max() <= 1e-4 * state.abs().max(), (step.i, (ours - state).abs().max())


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_diffusers(n, eta):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    states, drawn = diffusers_states(scheduler, n, eta=eta)
    compare(lambda x, grid, noise: samplers.ddim(mixture, x, grid, noise, eta=eta), n, states, drawn)


@pytest.mark.parametrize("n", [1000, 50])
@pytest.mark.parametrize("variance, name", [("fixed_small", "ddpm"), ("fixed_large", "ddpm-large")])
def test_ddpm_is_diffusers(n, variance, name):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(timestep_spacing="trailing", clip_sample=False, variance_type=variance)
    states, drawn = diffusers_states(scheduler, n)
    # on a short chain diffusers adds noise of variance beta even on the way to t = 0; the picture before it is compared
    compare(lambda x, grid, noise: SAMPLERS[name].run(mixture, x, grid, noise), n, states, drawn, -1 if n < 1000 else None)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_dpmpp_2m_is_diffusers(n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
        timestep_spacing="trailing", lower_order_final=False, final_sigmas_type="zero", euler_at_final=False,
    )  # fmt: skip
    states, _ = diffusers_states(scheduler, n)
    compare(lambda x, grid, noise: samplers.dpmpp_2m(mixture, x, grid), n, states)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_unipc_is_diffusers(n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, solver_order=2, solver_type="bh2", predict_x0=True,
        timestep_spacing="trailing", lower_order_final=True, final_sigmas_type="zero",
    )  # fmt: skip
    states, _ = diffusers_states(scheduler, n)
    compare(lambda x, grid, noise: samplers.unipc(mixture, x, grid), n, states)


@pytest.mark.parametrize("n", [6, 10, 30])
def test_ipndm_is_diffusers(n):
    """Its scheduler names a level by beta = sin(angle) with sigma = tan(angle), and wants a v-network."""
    diffusers = pytest.importorskip("diffusers")
    wanted = sigma_grid(LINEAR, n, "karras")
    scheduler = diffusers.IPNDMScheduler(trained_betas=(wanted / (1 + wanted**2).sqrt()).tolist())
    scheduler.set_timesteps(n)
    grid = scheduler.betas.double() / scheduler.alphas.double()  # our levels as its float32 tables hold them
    torch.testing.assert_close(grid, wanted, rtol=1e-3, atol=0)
    x, states = START.clone(), []
    for t, s in zip(scheduler.timesteps, grid):
        x0 = mixture(to_ve(x, s), s)
        eps = (to_ve(x, s) - x0) / s
        x = scheduler.step((eps - s * x0) / (1 + s**2).sqrt(), t, x).prev_sample
        states.append(x)
    for step, state in zip(samplers.ipndm(mixture, to_ve(START, grid[0]), grid), states, strict=True):
        ours = step.x / (1 + step.sigma_next**2).sqrt()
        assert (ours - state).abs().max() <= 1e-4 * state.abs().max()


# -- the papers' formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 10, 500, 999])
@pytest.mark.parametrize("name", ["ddpm", "ddpm-large"])
def test_ddpm_posterior_is_equation_7(name, t):
    """Ho et al. 2020, eq. 6 and 7, in alpha_bar, from an x_t and a predicted x0 of our choice."""
    beta, bar, bar_prev = float(LINEAR.beta[t]), float(LINEAR.alpha_bar[t]), float(LINEAR.alpha_bar[t - 1])
    x_t, x0 = START[:8], START[8:16]
    mean = math.sqrt(bar_prev) * beta / (1 - bar) * x0 + math.sqrt(1 - beta) * (1 - bar_prev) / (1 - bar) * x_t
    variance = (1 - bar_prev) / (1 - bar) * beta if name == "ddpm" else beta

    def move(noise):
        step = next(SAMPLERS[name].run(lambda x, s: x0, to_ve(x_t, LINEAR.sigma[t]), LINEAR.sigma[[t, t - 1]], noise))
        return step.x / (1 + step.sigma_next**2).sqrt()

    torch.testing.assert_close(move(torch.zeros_like), mean, rtol=1e-6, atol=1e-9)
    spread = move(torch.ones_like) - move(torch.zeros_like)
    torch.testing.assert_close(spread, torch.full_like(spread, math.sqrt(variance)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("churn", [0.0, 4.0, 1000.0])
def test_heun_is_the_algorithm_of_edm(churn):
    """Karras et al. 2022, algorithms 1 and 2, written out with sigma(t) = t; gamma is capped at sqrt(2) - 1."""
    grid = sigma_grid(LINEAR, 9, "karras")
    n, g = len(grid) - 1, torch.Generator().manual_seed(3)
    noises = [torch.randn(START.shape, generator=g, dtype=F64) for _ in range(n)]
    x, drawn = to_ve(START, grid[0]), 0
    for i in range(n):
        t, t_next = float(grid[i]), float(grid[i + 1])
        gamma = min(churn / n, math.sqrt(2) - 1) if churn and 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        if gamma:
            x = x + math.sqrt(t_hat**2 - t**2) * 1.003 * noises[drawn]
            drawn += 1
        d = (x - mixture(x, t_hat)) / t_hat
        y = x + (t_next - t_hat) * d
        if t_next:
            y = x + (t_next - t_hat) * (d / 2 + (y - mixture(y, t_next)) / t_next / 2)
        x = y
    source = iter(noises)
    ours = list(samplers.heun(mixture, to_ve(START, grid[0]), grid, lambda x: next(source), churn=churn))
    torch.testing.assert_close(ours[-1].x, x, rtol=1e-9, atol=1e-12)
    assert [step.nfe for step in ours] == [2, 4, 6, 8, 10, 12, 14, 16, 17]


def test_advance_is_exact_for_a_constant_prediction():
    x0, eps = START[:4], START[4:8]
    s, r = torch.tensor(7.0, dtype=F64), torch.tensor(2.0, dtype=F64)
    torch.testing.assert_close(advance(x0 + s * eps, x0, s, r), x0 + r * eps)


@pytest.mark.parametrize("name", ["ddpm", "ddpm-large", "ddim"])
def test_stochastic_samplers_keep_the_distribution(name):
    """8,000 samples of the exact Gaussian: mean and deviation to three standard errors and the chain's own bias."""
    g = torch.Generator().manual_seed(11)
    noise = lambda like: torch.randn(like.shape, generator=g, dtype=like.dtype)  # noqa: E731
    grid = sigma_grid(LINEAR, 1000)
    options = {"eta": 0.5} if name == "ddim" else {}
    x, noise = start(noise, (8_000, 2), grid)
    x = last(SAMPLERS[name].steps(gaussian, x.double(), grid, noise, **options))
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=3 * SD / math.sqrt(8_000) + 2e-3)
    torch.testing.assert_close(x.std(0), torch.full((2,), SD, dtype=F64), rtol=0.02, atol=0)


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_consistency_sampling_of_the_exact_function_keeps_the_distribution(evaluations):
    """Song et al. 2023, algorithm 1, with the flow's end in place of the denoiser: any number of evaluations gives the Gaussian itself."""
    g = torch.Generator().manual_seed(12)
    noise = lambda like: torch.randn(like.shape, generator=g, dtype=like.dtype)  # noqa: E731
    grid = sigma_grid(LINEAR, evaluations)
    x, noise = start(noise, (20_000, 2), grid, dtype=F64)
    steps = list(SAMPLERS["consistency"].steps(lambda x, s: flow(x, s, 0.0), x, grid, noise))
    torch.testing.assert_close(steps[-1].x.mean(0), MEAN, rtol=0, atol=3 * SD / math.sqrt(20_000) + 5e-3)
    torch.testing.assert_close(steps[-1].x.std(0), torch.full((2,), SD, dtype=F64), rtol=0.02, atol=0)
    for step in steps[:-1]:
        assert float((step.x - step.x0).std()) == pytest.approx(float(step.sigma_next), rel=0.02)


# -- bookkeeping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_every_sampler_counts_truthfully(name, n):
    sampler, calls = SAMPLERS[name], []

    def denoise(x, sigma):
        calls.append(float(sigma))
        return mixture(x, sigma)

    grid = sigma_grid(LINEAR, n, sampler.grid)
    steps = []
    for step in sampler.run(denoise, to_ve(START, grid[0]), grid):
        assert step.nfe == len(calls), "a step says what it cost before the next one begins"
        steps.append(step)
    assert [s.i for s in steps] == list(range(n)) and {s.n for s in steps} == {n}
    assert [float(s.sigma) for s in steps] == grid[:-1].tolist() and [float(s.sigma_next) for s in steps] == grid[1:].tolist()
    assert len(calls) == sampler.cost(n) and all(0 < c <= grid[0] for c in calls)
    assert steps[-1].x.shape == steps[-1].x0.shape == START.shape and bool(steps[-1].x.isfinite().all())
    for evaluations in range(1, 30):
        assert sampler.cost(sampler.steps_for(evaluations)) <= max(evaluations, 1) < sampler.cost(sampler.steps_for(evaluations) + 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_pictures_stay_float32(name):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    step = None
    for step in SAMPLERS[name].run(lambda x, s: x / (1 + float(s) ** 2), x * 80, sigma_grid(LINEAR, 5, "karras")):
        assert step.x.dtype == step.x0.dtype == torch.float32 and step.x.shape == x.shape
    assert step.x.isfinite().all()
