"""Tuning of a trained model to few evaluations: it learns where the guided sampling of its teacher ends.

The consistency function f(x, sigma) (Song et al. 2023) maps every point of a sampling trajectory to the image where it ends. The tuned
model's predicted x0 is trained to be that function; it satisfies f(x, 0) = x for v prediction, whose c_skip is 1 and c_out 0 there. As
in consistency tuning (Geng et al. 2024) the weights start from the trained model's. Their target is f at the next lower level of a
noised training image. Ours is the end of the trajectory, which the teacher's solver reaches with its guidance in teacher_evaluations
steps. That target does not vary for a given point, and nothing has to travel down from level to level over many training steps: the
tuning needs hundreds of steps instead of tens of thousands (train/LOG.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, start
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule
from ddpm_app.images.datasets import ImageData
from ddpm_app.paths import PROJECT, model_roots
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.distributed import World
from ddpm_app.training.trainer import BANDS, Trainer
from ddpm_app.training.validation import averaged

VALIDATION_TRAJECTORIES = 32
HUBER = 0.05  # differences of pixels well below it count by their square, well above it by their size; images span [-1, 1]


def find_model(name: str) -> Checkpoint:
    """A model by its directory, seen from here or from the project, or by its name. Raises CheckpointError."""
    places = [Path(name), PROJECT / name, *(root / name for root in model_roots())]
    return checkpoint.open_checkpoint(next((p for p in places if (p / "config.json").is_file()), places[0]))


def trajectory_grid(schedule: Schedule, steps: int, shift: float) -> Tensor:
    """Levels in equal steps of t as the sampling grid "uniform-t", but all below the highest lowered by shift in [0, 1) of a step, so that
    every level between them is met. (steps + 1,) float64 on the CPU, ending in 0."""
    usable = int((schedule.sigma <= SIGMA_CAP).sum())
    t = usable * (1 - torch.arange(steps, dtype=torch.float64) / steps) - 1
    t[1:] -= shift * usable / steps
    return torch.cat([schedule.t_to_sigma(t.clamp(min=0)), torch.zeros(1, dtype=torch.float64)])


def pseudo_huber(difference: Tensor) -> Tensor:
    """(B, *S) -> (B,): the mean over a sample of sqrt(d^2 + HUBER^2) - HUBER. Its best constant is close to the median of the targets,
    where the squared error's is their mean: a blur."""
    return ((difference.square() + HUBER**2).sqrt() - HUBER).flatten(1).mean(1)


class Tuner(Trainer):
    """A Trainer whose batch holds trajectories of the teacher instead of noised images. Each begins at noise, with the labels of
    training images."""

    def __init__(self, config: TrainConfig, data: ImageData, world: World | None = None):
        """Raises ValueError if there is no such teacher or if its network is read in another way than this one."""
        super().__init__(config, data, world)
        source = find_model(config.teacher)
        theirs, ours = source.config, (config.prediction_type, {"name": config.schedule, "T": config.T}, data.classes)
        if (theirs.prediction_type, {"T": 1000, **theirs.schedule}, theirs.classes) != ours:
            raise ValueError(f"--teacher: {config.teacher} has another prediction type, schedule or other classes than this run")
        if theirs.tuned_for:
            raise ValueError(f"--teacher: {config.teacher} is tuned to few evaluations itself; a model that is not is accepted")
        self.teacher, self._held_out = source.denoiser(self.device, self.dtype), None

    def validation(self, data: ImageData) -> float:
        """Mean pseudo-Huber distance of the EMA weights, at all levels of VALIDATION_TRAJECTORIES held-out trajectories."""
        c, n = self.config, VALIDATION_TRAJECTORIES
        sigmas = trajectory_grid(self.denoiser.schedule, c.teacher_evaluations, 0.0)
        if self._held_out is None:
            eps = torch.randn((n, *data.images.shape[1:]), generator=torch.Generator().manual_seed(1)).to(self.device)
            label = (torch.arange(n) % len(data.classes)).to(self.device)
            self._held_out = (*trajectory(self.teacher, eps, label, sigmas, c.teacher_guidance), label)
        points, end, label = self._held_out
        with averaged(self) as denoiser:
            return float(torch.stack([pseudo_huber(denoiser(x, s, label) - end).mean() for x, s in zip(points, sigmas)]).mean())

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(points, their sigma, the images where they end, labels) of the current step: trained_levels points of each trajectory."""
        c = self.config
        _, _, eps, label = super().batch()
        chance = torch.Generator().manual_seed((c.seed * 0x9E3779B1 + self.step * 2) % 2**63)  # super().batch() takes the odd numbers
        sigmas = trajectory_grid(self.denoiser.schedule, c.teacher_evaluations, float(torch.rand((), generator=chance)))
        others = torch.randperm(c.teacher_evaluations - 1, generator=chance) + 1
        order = [0, *others[: c.trained_levels - 1].tolist()]  # the highest level decides the images of one evaluation
        points, end = trajectory(self.teacher, eps, label, sigmas, c.teacher_guidance)
        sigma = sigmas[order].repeat_interleave(len(end)).to(self.device, torch.float32)
        return torch.cat([points[k] for k in order]), sigma, end.repeat(len(order), 1, 1, 1), label.repeat(len(order))

    def loss(self, x: Tensor, sigma: Tensor, end: Tensor, label: Tensor) -> Tensor:
        """The pseudo-Huber distance of each point's predicted x0 to the image where its trajectory ends."""
        return pseudo_huber(self.denoiser(x, sigma, label).float() - end)

    def bands(self) -> Tensor:
        t = self.denoiser.schedule.sigma_to_t(self._inputs[1])
        return (t * BANDS / self.config.T).long().clamp(max=BANDS - 1).to(self.device)


@torch.no_grad()
def trajectory(teacher: Denoiser, eps: Tensor, label: Tensor, sigmas: Tensor, guidance: float) -> tuple[list[Tensor], Tensor]:
    """UniPC from noise eps (B, *S) down the grid: (x at each of sigmas[:-1], the image where it ends), each (B, *S).

    label: (B,) int64; the null class samples without guidance."""
    x, _ = start(lambda _: eps, eps.shape, sigmas, eps.device)
    points, step = [x], None
    for step in SAMPLERS["unipc"].steps(clipped(cfg(teacher, label, guidance)), x, sigmas):
        points.append(step.x)
    return points[:-1], step.x


def make_trainer(config: TrainConfig, data: ImageData, world: World | None = None) -> Trainer:
    """A Tuner for a configuration that names a teacher, else a Trainer."""
    return (Tuner if config.teacher else Trainer)(config, data, world)
