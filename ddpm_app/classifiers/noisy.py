"""A classifier that reads noisy pictures: log p(class | x, sigma) at every level, which is what classifier guidance needs.

It lies in a directory of its own kind, noisy_classifier.json + weights.safetensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_app.classifiers.classifier import ClassifierConfig, load_network, save_classifier
from ddpm_app.diffusion.denoiser import SIGMA_DATA
from ddpm_app.diffusion.schedules import SIGMA_CAP, Schedule, expand, make_schedule
from ddpm_app.networks.device import memory_format


@dataclass(frozen=True)
class NoisyConfig(ClassifierConfig):
    """As ClassifierConfig, and schedule: name, T and parameters of the levels it was trained on. embedding: numbers that say the level."""

    schedule: dict = field(default_factory=lambda: {"name": "cosine", "T": 1000})
    embedding: int = 64

    def __post_init__(self):
        super().__post_init__()
        if self.embedding % 2 or not 8 <= self.embedding <= 512:
            raise ValueError("not a classifier this program can build")
        make_schedule(**self.schedule)


class NoisyBlock(nn.Module):
    """conv, norm, times (1 + scale) plus shift by the level, SiLU, conv, norm; + skip; SiLU (Dhariwal & Nichol 2021's adaptive norm)."""

    def __init__(self, c_in: int, c_out: int, stride: int, emb: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.level = nn.Linear(emb, 2 * c_out)
        self.skip = nn.Identity() if c_in == c_out and stride == 1 else nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        for zero in (self.norm2.weight, self.level.weight, self.level.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.level(emb)[:, :, None, None].chunk(2, 1)
        h = nnf.silu(torch.addcmul(shift, self.norm1(self.conv1(x)), 1 + scale))
        return nnf.silu(self.norm2(self.conv2(h)) + self.skip(x))


class NoisyResNet(nn.Module):
    """x (B, C, H, W) = x0 + sigma eps, sigma () or (B,) -> logits (B, K). Scales its input to unit variance (EDM's c_in) and is
    told ln sigma. SiLU, not ReLU: what guides is the gradient, and SiLU's has no steps."""

    def __init__(self, config: NoisyConfig):
        super().__init__()
        self.config = config
        now, emb = config.widths[0], config.embedding
        self.lowest = float(make_schedule(**config.schedule).sigma[0])  # levels below it were never seen, and are told as it
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.25), math.log(8.0), emb // 2)), persistent=False)
        self.embed = nn.Sequential(nn.Linear(emb, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.stem, self.norm = nn.Conv2d(config.in_channels, now, 3, padding=1, bias=False), nn.BatchNorm2d(now)
        blocks = []
        for k, (width, count) in enumerate(zip(config.widths, config.blocks)):
            for b in range(count):
                blocks.append(NoisyBlock(now, width, 2 if k and b == 0 else 1, emb))
                now = width
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(now, len(config.classes))

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))
        angle = (sigma.clamp(min=self.lowest).log().float() / 2)[:, None] * self.frequencies
        emb = self.embed(torch.cat([angle.sin(), angle.cos()], 1))
        h = expand(torch.rsqrt(sigma**2 + SIGMA_DATA**2), x) * x
        h = nnf.silu(self.norm(self.stem(h.contiguous(memory_format=torch.channels_last))))
        for block in self.blocks:
            h = block(h, emb)
        return self.head(h.mean((2, 3), dtype=torch.promote_types(h.dtype, torch.float32)))


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
