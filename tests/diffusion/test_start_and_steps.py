"""Sampling is started and stepped in one place: the first noise of each seed, and a call that every sampler accepts."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_app.diffusion.samplers import SAMPLERS, SeededNoise, last, start
from ddpm_app.diffusion.schedules import sigma_grid
from ddpm_app.paths import PROJECT
from tests.diffusion.test_samplers import LINEAR, START, mixture

F64 = torch.float64


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name):
    options = {"ddim": {"eta": 1.0}, "heun": {"churn": 20.0}}.get(name, {})
    grid = sigma_grid(LINEAR, 8, SAMPLERS[name].grid)

    def run(seeds):
        x, noise = start(seeds, (len(seeds), 3, 4, 4), grid)
        return last(SAMPLERS[name].steps(lambda x, s: x / (1 + float(s) ** 2), x, grid, noise, **options))

    whole = run([7, 8, 9, 10])
    assert torch.equal(run([9])[0], whole[2]) and torch.equal(run([10, 7]), whole[[3, 0]])
    assert not torch.equal(whole[0], whole[1])


def test_seeded_noise():
    noise = SeededNoise([3, -1, 2**63 + 5])
    like = torch.empty(3, 100, 100)
    first, second = noise(like), noise(like)
    assert not torch.equal(first, second) and torch.equal(SeededNoise([3])(like[:1])[0], first[0])
    assert abs(float(first.mean())) < 0.02 and abs(float(first.std()) - 1) < 0.02
    assert noise(like.double()).dtype == F64
    with pytest.raises(ValueError, match="2 samples but 3 seeds"):
        noise(like[:2])


def test_initial_noise_has_unit_variance_in_the_textbooks_picture():
    x, _ = start(range(8), (8, 3, 32, 32), torch.tensor([157.0, 0.0], dtype=F64))
    assert float((x / math.sqrt(1 + 157.0**2)).std()) == pytest.approx(1, abs=0.02) and x.dtype == torch.float32


def test_sampling_starts_from_seeds_or_a_noise_or_an_image():
    grid = torch.tensor([3.0, 1.0, 0.0], dtype=F64)
    x, noise = start([4, 5], (2, 3), grid)
    assert torch.equal(x, SeededNoise([4, 5])(x) * math.sqrt(10.0)) and isinstance(noise, SeededNoise)
    given = SeededNoise([4, 5])
    same, returned = start(given, (2, 3), grid)
    assert torch.equal(same, x) and returned is given
    image = torch.tensor([0.1, 0.2, 0.3])
    noised, _ = start([4, 5], (2, 3), grid, x0=image)
    assert torch.equal(noised, image + 3 * SeededNoise([4, 5])(x))
    assert start([4], (1, 2), grid, dtype=F64)[0].dtype == F64


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_drops_what_the_method_cannot_use(name):
    """Every sampler accepts the same call; its result is that of the method with only the arguments it has."""
    method, grid = SAMPLERS[name], sigma_grid(LINEAR, 6, "karras")
    settings = {"eta": 0.5, "churn": 30.0}
    usable = {k: v for k, v in settings.items() if k in method.options}
    if method.stochastic or usable:
        usable["noise"] = SeededNoise([1] * len(START))
    want = last(method.run(mixture, START * 80, grid, **usable))
    assert torch.equal(want, last(method.steps(mixture, START * 80, grid, SeededNoise([1] * len(START)), **settings)))


def test_sampling_is_started_and_stepped_in_one_place():
    """No other file scales the first noise, asks whether a method is stochastic to decide its arguments, or calls a method itself."""
    files = [f for folder in ("ddpm_app", "train") for f in (PROJECT / folder).rglob("*.py")]
    others = [f for f in files if f.name not in ("samplers.py", "schedules.py")]
    parts = (
        "(1 + sigmas[0] ** 2).sqrt()",
        "(1 + sigmas[0]**2).sqrt()",
        "if sampler.stochastic",
        "if method.stochastic",
        "method.run(",
        "sampler.run(",
    )
    assert [f"{f.relative_to(PROJECT)}: {part}" for f in others for part in parts if part in f.read_text()] == []
