"""A classifier that reads noisy pictures: log p(class | x, sigma) at every level, which is what classifier guidance needs.

It lies in a directory of its own kind, noisy_classifier.json + weights.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.classifiers.classifier import load_network, save_classifier
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule
from ddpm_app.networks.device import memory_format
from ddpm_app.networks.resnet import NoisyConfig, NoisyResNet


class NoisyClassifier:
    """A trained network, ready to guide, in float32. digest: SHA-256 of the weights."""

    def __init__(self, network: NoisyResNet, device: torch.device | str = "cpu", digest: str = ""):
        self.device = torch.device(device)
        self.network = network.to(self.device, torch.float32, memory_format=memory_format(self.device)).eval().requires_grad_(False)
        self.config, self.digest = network.config, digest

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log p(class | x, sigma) (B, K) of x (B, C, H, W) in the sigma picture; differentiable in x."""
        return self.network(x, sigma).log_softmax(1)


def training_levels(schedule: Schedule) -> Tensor:
    """(T',) float64: the schedule's levels that a sampler may visit (up to SIGMA_CAP)."""
    return schedule.sigma[schedule.sigma <= SIGMA_CAP]


def save_noisy(path: Path | str, config: NoisyConfig, network: NoisyResNet) -> None:
    """Write noisy_classifier.json and weights.safetensors, as save_classifier does."""
    save_classifier(path, config, network, "noisy_classifier.json")


def load_noisy(path: Path | str, device: torch.device | str = "cpu") -> NoisyClassifier:
    """Read a directory that save_noisy wrote. Raises CheckpointError, one sentence, for anything else."""
    network, digest = load_network(path, "noisy_classifier.json", "noise-aware classifier", NoisyConfig, NoisyResNet)
    return NoisyClassifier(network, device, digest)
