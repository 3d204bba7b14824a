"""Tuning to few evaluations: the teacher's trajectories, the consistency function on a case with a known answer, exact resume."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ddpm_app.checkpoints import checkpoint
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.images.datasets import ImageData
from ddpm_app.networks import unet_config
from ddpm_app.training import recorder
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.trainer import Trainer, train
from ddpm_app.training.tuning import Tuner, make_trainer, pseudo_huber, trajectory, trajectory_grid
from ddpm_app.training.validation import averaged

COSINE = make_schedule("cosine", 1000)


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """A preset that takes milliseconds; dropout on, because resuming has to repeat it, too."""
    monkeypatch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1))


def toy() -> ImageData:
    images = torch.arange(24, dtype=torch.uint8).mul(10).reshape(24, 1, 1, 1).repeat(1, 1, 8, 8)
    return ImageData("toy", images, torch.arange(24) % 3, tuple("abc"))


@pytest.fixture
def teacher(tmp_path):
    """A model of the micro preset on disk, with weights that give every level another answer."""
    trainer = Trainer(config(), toy())
    generator = torch.Generator().manual_seed(5)
    weights = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in trainer.weights().items()}
    checkpoint.save(tmp_path / "teacher", recorder.checkpoint_config(trainer), weights, torch.float32)
    return tmp_path / "teacher"


def config(**changes) -> TrainConfig:
    base = dict(data="toy", preset="micro", images=48, batch=6, lr=2e-3, warmup=6, device="cpu", precision="fp32", seed=3)
    return TrainConfig(**{**base, **changes})


def tuner(teacher, **changes) -> Tuner:
    return make_trainer(config(teacher=str(teacher), teacher_evaluations=3, **changes), toy())


def run(trainer, steps=None):
    end = math.inf if steps is None else trainer.step + steps
    return list(train(trainer, 1000, lambda: trainer.step >= end))


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_tuning_equals_an_unbroken_one(tmp_path, teacher, stop):
    whole = tuner(teacher)
    run(whole)
    first = tuner(teacher)
    run(first, stop)
    first.save_state(tmp_path / "state.safetensors")
    torch.manual_seed(99)
    second = tuner(teacher)
    second.load_state(tmp_path / "state.safetensors")
    run(second)
    assert second.step == whole.step == 8
    assert all(torch.equal(a, b) for a, b in zip([*whole.parameters, *whole.ema.values], [*second.parameters, *second.ema.values]))


def test_a_tuning_starts_with_the_teachers_weights_and_records_its_guidance(teacher):
    trainer = tuner(teacher, teacher_guidance=2.5, tuned_for=2)
    recorder.initialize(trainer, recorder.RunOptions())
    stored = checkpoint.open_checkpoint(teacher).denoiser().network.state_dict()
    assert all(torch.equal(p, stored[name]) for name, p in trainer.network.named_parameters() if name in stored)
    written = recorder.checkpoint_config(trainer)
    assert (written.tuned_for, written.guidance) == (2, 2.5)
    again = checkpoint.CheckpointConfig.from_dict({k: v for k, v in written.to_dict().items() if k != "format"})
    assert (again.tuned_for, again.guidance) == (2, 2.5)


def test_other_runs_write_nothing_about_tuning(teacher):
    assert not {"tuned_for", "guidance"} & set(checkpoint.open_checkpoint(teacher).config.to_dict())


def test_trajectories_are_the_teachers_guided_sampling(teacher):
    denoiser = checkpoint.open_checkpoint(teacher).denoiser()
    sigmas, label = trajectory_grid(COSINE, 4, 0.0), torch.tensor([0, 2, 3])  # 3 is the null class
    assert torch.allclose(sigmas, sigma_grid(COSINE, 4), rtol=1e-2)
    eps = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    points, end = trajectory(denoiser, eps, label, sigmas, 1.7)
    x, _ = start(lambda _: eps, eps.shape, sigmas)
    assert torch.equal(points[0], x) and len(points) == 4
    assert torch.allclose(end, last(SAMPLERS["unipc"].steps(clipped(cfg(denoiser, label, 1.7)), x, sigmas)), atol=1e-3)
    plain = last(SAMPLERS["unipc"].steps(clipped(lambda y, s: denoiser(y, s, None)), x[2:], sigmas))
    assert torch.allclose(end[2:], plain, atol=1e-3)  # without a class, guidance changes nothing


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.999])
def test_shifted_grids_meet_every_level_and_keep_the_highest(shift):
    grid = trajectory_grid(COSINE, 5, shift)
    assert len(grid) == 6 and grid[-1] == 0 and bool((grid.diff() < 0).all())
    assert grid[0] == trajectory_grid(COSINE, 5, 0.0)[0] == COSINE.sigma[COSINE.sigma <= 160].max()
    assert grid[1] <= trajectory_grid(COSINE, 5, 0.0)[1] and grid[1] > trajectory_grid(COSINE, 5, 0.0)[2]


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away():
    near, far = torch.full((2, 1, 4, 4), 1e-3), torch.full((2, 1, 4, 4), 2.0)
    assert torch.allclose(pseudo_huber(2 * near) / pseudo_huber(near), torch.tensor([4.0, 4.0]), rtol=1e-2)
    assert torch.allclose(pseudo_huber(2 * far) / pseudo_huber(far), torch.tensor([2.0, 2.0]), rtol=3e-2)


class Affine(torch.nn.Module):
    """A network for images of independent pixels: one learned scale and offset at each of a hundred levels of t."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(100, 2))

    def forward(self, x, t, label):
        row = (t / 10).clamp(0, 98.999)
        low = row.long()
        scale, offset = torch.lerp(self.table[low], self.table[low + 1], (row - low)[:, None]).T
        return scale[:, None, None, None] * x + offset[:, None, None, None]


class Gaussian:
    """The exact denoiser of images whose pixels are independent and normal, mean 0.2, deviation 0.3."""

    MEAN, SD = 0.2, 0.3

    def __call__(self, x, sigma, label=None):
        return self.MEAN + self.SD**2 / (self.SD**2 + float(sigma) ** 2) * (x - self.MEAN)

    def consistency(self, x, sigma):
        """Where the probability flow from x ends (Karras et al. 2022, eq. 1 integrated): linear in x - mean."""
        return self.MEAN + (x - self.MEAN) * self.SD / math.sqrt(self.SD**2 + float(sigma) ** 2)


def test_the_consistency_function_of_a_gaussian_is_learned(teacher):
    """On a Gaussian the consistency function is known. One evaluation gives its deviation, where the denoiser's gives none."""
    trainer, truth = tuner(teacher, images=1200 * 16, batch=16, lr=0.03, warmup=1, label_dropout=0.0, averages="none"), Gaussian()
    trainer.network = Affine()
    trainer.parameters = list(trainer.network.parameters())
    trainer.denoiser = Denoiser(trainer.network, COSINE, "v")
    trainer.optimiser = torch.optim.Adam(trainer.parameters, lr=0.03)
    trainer.ema.values = [p.detach().clone() for p in trainer.parameters]
    trainer._lr = None  # this optimiser has a number as its rate
    trainer.config = dataclasses.replace(trainer.config, teacher_guidance=1.0, teacher_evaluations=16, trained_levels=4)
    trainer.teacher = truth
    run(trainer)
    g = torch.Generator().manual_seed(1)
    with averaged(trainer) as denoiser:
        for sigma in (150.0, 5.0, 1.0, 0.5):
            x = Gaussian.MEAN + Gaussian.SD * torch.randn(64, 1, 8, 8, generator=g) + sigma * torch.randn(64, 1, 8, 8, generator=g)
            error = (denoiser(x, torch.tensor(sigma)) - truth.consistency(x, sigma)).square().mean().sqrt()
            assert error < 0.05, (sigma, float(error))
        x, noise = start(range(64), (64, 1, 8, 8), sigma_grid(COSINE, 1))
        one = last(SAMPLERS["consistency"].steps(denoiser, x, sigma_grid(COSINE, 1), noise))
    assert abs(float(one.std()) - Gaussian.SD) < 0.03 and abs(float(one.mean()) - Gaussian.MEAN) < 0.03


def test_a_teacher_that_does_not_fit_is_refused(teacher):
    with pytest.raises(ValueError, match="schedule"):
        tuner(teacher, schedule="linear")
    with pytest.raises(ValueError, match="not a directory"):
        tuner(teacher.parent / "nothing")
    model = checkpoint.open_checkpoint(teacher)
    weights = model.denoiser().network.state_dict()
    checkpoint.save(teacher.parent / "tuned", dataclasses.replace(model.config, tuned_for=1), dict(weights), torch.float32)
    with pytest.raises(ValueError, match="tuned"):
        tuner(teacher.parent / "tuned")
