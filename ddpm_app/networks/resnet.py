"""The residual networks that classify images: ResNet for clean images, NoisyResNet for noisy ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ddpm_app.diffusion.denoiser import SIGMA_DATA
from ddpm_app.diffusion.schedules import expand, make_schedule
from ddpm_app.networks.unet_config import UNetConfig


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier: its network, and how it was trained. Raises ValueError for values that are not accepted.

    data:        name of the data set
    classes:     one name per label
    image_size:  side in pixels
    in_channels: 1 grey, 3 RGB
    widths:      channels of each stage; every stage after the first halves the side
    blocks:      residual blocks of each stage
    images_seen: in training
    training:    the settings of the training
    metrics:     measured numbers, each with its protocol
    """

    data: str
    classes: tuple[str, ...]
    image_size: int = 32
    in_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (1, 1, 2)
    images_seen: int = 0
    training: dict = field(default_factory=dict)
    metrics: list = field(default_factory=list)

    def __post_init__(self):
        for name, kind in (("classes", str), ("widths", int), ("blocks", int)):
            object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        ok = 2 <= len(self.classes) <= 100_000 and 8 <= self.image_size <= 256 and self.in_channels in (1, 3)
        ok = ok and 1 <= len(self.widths) == len(self.blocks) <= 5
        if not ok or not all(4 <= w <= 1024 for w in self.widths) or not all(0 <= b <= 16 for b in self.blocks):
            raise ValueError(
                f"this classifier cannot be built: {len(self.classes)} classes, image_size {self.image_size}, in_channels"
                f" {self.in_channels}, widths {self.widths}, blocks {self.blocks}; accepted are 2 classes or more, image_size 8..256,"
                " in_channels 1 or 3, and 1 to 5 stages with widths of 4..1024 and 0..16 blocks each"
            )

    image_shape = UNetConfig.image_shape  # (C, H, W) of the images


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm; + skip; ReLU (He et al. 2016). The second norm starts at zero, so the block starts as an identity."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.skip = nn.Identity() if c_in == c_out and stride == 1 else nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = nnf.relu(self.norm1(self.conv1(x)), inplace=True)
        return nnf.relu(self.norm2(self.conv2(h)).add_(self.skip(x)), inplace=True)


class ResNet(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> (logits (B, K), features (B, D)). Features are the last stage's channels, averaged over positions."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        now = config.widths[0]
        self.stem, self.norm = nn.Conv2d(config.in_channels, now, 3, padding=1, bias=False), nn.BatchNorm2d(now)
        stages = []
        for k, (width, count) in enumerate(zip(config.widths, config.blocks)):
            for b in range(count):
                stages.append(Block(now, width, 2 if k and b == 0 else 1))
                now = width
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(now, len(config.classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stages(nnf.relu(self.norm(self.stem(x)), inplace=True)).float().mean((2, 3))
        return self.head(h), h


def folded(network: ResNet) -> ResNet:
    """A copy for inference, in evaluation mode, with each norm merged into the convolution before it. This is faster.

    Its outputs are equal up to rounding. Its weights have other names."""
    network = copy.deepcopy(network).eval()
    network.stem, network.norm = fuse_conv_bn_eval(network.stem, network.norm), nn.Identity()
    for block in network.stages:
        block.conv1, block.norm1 = fuse_conv_bn_eval(block.conv1, block.norm1), nn.Identity()
        block.conv2, block.norm2 = fuse_conv_bn_eval(block.conv2, block.norm2), nn.Identity()
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class NoisyConfig(ClassifierConfig):
    """A noise-aware classifier: the fields of ClassifierConfig and

    schedule:  name, T and parameters of the schedule it was trained on
    embedding: size of the embedding of the noise level
    """

    schedule: dict = field(default_factory=lambda: {"name": "cosine", "T": 1000})
    embedding: int = 64

    def __post_init__(self):
        super().__post_init__()
        if self.embedding % 2 or not 8 <= self.embedding <= 512:
            raise ValueError(f"embedding is {self.embedding}; an even number from 8 to 512 is accepted")
        make_schedule(**self.schedule)


class NoisyBlock(nn.Module):
    """conv, norm, times (1 + scale) plus shift, SiLU, conv, norm; + skip; SiLU (adaptive norm of Dhariwal & Nichol 2021).

    scale and shift are computed from the embedding of the noise level."""

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
    """x (B, C, H, W) = x0 + sigma eps, sigma () or (B,) -> logits (B, K).

    The input is scaled to unit variance (EDM's c_in). The network is conditioned on ln sigma. It uses SiLU instead of ReLU, because
    guidance uses the gradient, and the gradient of SiLU is continuous."""

    def __init__(self, config: NoisyConfig):
        super().__init__()
        self.config = config
        now, emb = config.widths[0], config.embedding
        self.lowest = float(make_schedule(**config.schedule).sigma[0])  # levels below it do not occur in training and are replaced by it
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
