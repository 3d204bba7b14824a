"""A small residual classifier that judges generated pictures.

It lies in a directory of its own kind, classifier.json + weights.safetensors, which is no diffusion checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ddpm_app.checkpoints.checkpoint import CheckpointError, check_keys, read_weights
from ddpm_app.files import read_text, save_tensors, write_atomically
from ddpm_app.images.datasets import to_model

FORMAT = 1


@dataclass(frozen=True)
class ClassifierConfig:
    """data: name of the data set. classes: a name per label. image_size: side in pixels. in_channels: 1 grey, 3 RGB.
    widths: channels of each stage, every stage after the first at half the side. blocks: residual blocks of each stage.
    images_seen: in training. training: what made it, as a dict. metrics: measured numbers, each with its protocol."""

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
            raise ValueError("not a classifier this program can build")


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm; + skip; ReLU (He et al. 2016). The second norm starts at zero: an identity at first."""

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
    """x (B, C, H, W) in [-1, 1] -> (logits (B, K), features (B, D)); D is the last width, averaged over the positions."""

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
    """A copy for reading only, in evaluation mode: each norm is folded into the convolution in front of it, which leaves out a pass over
    every feature map. Equal to rounding; its weights have other names."""
    network = copy.deepcopy(network).eval()
    network.stem, network.norm = fuse_conv_bn_eval(network.stem, network.norm), nn.Identity()
    for block in network.stages:
        block.conv1, block.norm1 = fuse_conv_bn_eval(block.conv1, block.norm1), nn.Identity()
        block.conv2, block.norm2 = fuse_conv_bn_eval(block.conv2, block.norm2), nn.Identity()
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


class Classifier:
    """A trained network, ready to judge; always in float32, so that its numbers do not depend on the machine's fast formats.

    digest: SHA-256 of the weights, the part of a protocol that says which classifier it was."""

    def __init__(self, network: ResNet, device: torch.device | str = "cpu", digest: str = ""):
        self.device = torch.device(device)
        self.network = network.to(self.device, torch.float32).eval().requires_grad_(False)
        # on CPUs folded, channels_last and in batches that stay in the caches it reads a third faster (train/LOG.md)
        self._reading = folded(self.network)
        self.config, self.digest, self.batch = network.config, digest, 64 if self.device.type == "cpu" else 512

    def classify(self, images: Tensor, batch: int = 0) -> Tensor:
        """uint8 (N, C, H, W) -> probabilities (N, K) float32 on the CPU. Raises ValueError for another shape or type."""
        return self.judge(images, batch)[0]

    def features(self, images: Tensor, batch: int = 0) -> Tensor:
        """uint8 (N, C, H, W) -> features (N, D) float32 on the CPU, those in front of the last layer."""
        return self.judge(images, batch)[1]

    @torch.inference_mode()
    def judge(self, images: Tensor, batch: int = 0) -> tuple[Tensor, Tensor]:
        """(probabilities (N, K), features (N, D)) from one pass. batch: images at a time, 0 for what suits the device."""
        shape = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
            raise ValueError(f"the {self.config.data} classifier reads uint8 (N, {', '.join(map(str, shape))}), not {_says(images)}")
        # CUDA's convolutions would otherwise round to TF32, ten bits of mantissa
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self.device.type == "cuda" else contextlib.nullcontext()
        with exact:
            parts = [
                self._reading(to_model(part.to(self.device)).contiguous(memory_format=torch.channels_last))
                for part in images.split(batch or self.batch)
            ]
        logits, features = (torch.cat(column).cpu() for column in zip(*parts))
        return logits.softmax(1), features


def _says(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"


def save_classifier(path: Path | str, config: ClassifierConfig, network: nn.Module, name: str = "classifier.json") -> None:
    """Write the config under `name`, and weights.safetensors: fp16, the norms' running statistics float32."""
    path = Path(path)
    weights = {k: v if "running" in k else v.half() for k, v in network.state_dict().items() if "num_batches" not in k}
    save_tensors(path / "weights.safetensors", weights, {"format": "pt"})
    write_atomically(path / name, json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=1))


def load_classifier(path: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """Read a directory that save_classifier wrote. Raises CheckpointError, one sentence, for anything else."""
    network, digest = load_network(path, "classifier.json", "classifier", ClassifierConfig, ResNet)
    return Classifier(network, device, digest)


def load_network(
    path: Path | str, name: str, kind: str, config_type: type[ClassifierConfig], network_type: type[nn.Module]
) -> tuple[nn.Module, str]:
    """(network, SHA-256 of its weights) of a directory that save_classifier wrote under `name`. Raises CheckpointError."""
    path = Path(path)
    if not (path / name).is_file():
        raise CheckpointError(f"{path} is no {kind}: it has no {name}")
    try:
        raw = json.loads(read_text(path / name))
        if raw.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: its format is newer than this program")
        network = network_type(config_type(**raw))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {name} does not describe a {kind} of this program ({error})") from error
    counters = {k: v for k, v in network.state_dict().items() if "num_batches" in k}  # only training reads them: not stored
    weights = read_weights(path) | counters
    check_keys(weights, network, path)
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} tensors hold infinities or NaN, first {bad[0]}")
    network.load_state_dict(weights)
    return network, hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()


# -- numbers --------------------------------------------------------------------------------------------------------------


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share seen as `hits` of n (Wilson 1927); stays within 0..1 and is honest at 0 and n hits."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share")
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
