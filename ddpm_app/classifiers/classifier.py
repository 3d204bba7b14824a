"""A small residual classifier that judges generated pictures.

It lies in a directory of its own kind, classifier.json + weights.safetensors, which is no diffusion checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm_app.checkpoints.checkpoint import CheckpointError, check_keys, read_weights
from ddpm_app.files import read_text, save_tensors, write_atomically
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.resnet import ClassifierConfig, ResNet, folded

FORMAT = 1


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
