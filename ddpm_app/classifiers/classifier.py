"""A trained classifier as a directory: a JSON description and weights.safetensors. It is not a diffusion checkpoint.

classifier.json         a plain classifier: class probabilities and features of images
noisy_classifier.json   a noise-aware classifier: log p(class | x, sigma), which classifier guidance differentiates
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.description import FORMAT
from ddpm_app.checkpoints.weights import digest_of_weights, half_weights, read_model, save_model
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import memory_format
from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet, folded


def description_file(noise_aware: bool) -> str:
    """The name of the JSON file that describes a classifier of this kind."""
    return "noisy_classifier.json" if noise_aware else "classifier.json"


class Classifier:
    """A trained network in evaluation mode. It computes in float32, so its numbers do not depend on the machine's fast formats.

    network: a ResNet, or a NoisyResNet for a noise-aware classifier
    digest: SHA-256 of the weights file, which identifies the classifier in a protocol
    """

    def __init__(self, network: ResNet | NoisyResNet, device: torch.device | str = "cpu", digest: str = ""):
        self.device, self.noise_aware = torch.device(device), isinstance(network, NoisyResNet)
        layout = {"memory_format": memory_format(self.device)} if self.noise_aware else {}
        self.network = network.to(self.device, torch.float32, **layout).eval().requires_grad_(False)
        # On CPUs, folded norms, channels_last and batches that stay in the caches save a third of the time (train/LOG.md).
        self._folded = None if self.noise_aware else folded(self.network)
        self.config, self.digest, self.batch = network.config, digest, 64 if self.device.type == "cpu" else 512

    def classify(self, images: Tensor, batch: int = 0) -> Tensor:
        """uint8 (N, C, H, W) -> probabilities (N, K) float32 on the CPU. Raises ValueError for another shape or type."""
        return self.classify_with_features(images, batch)[0]

    def features(self, images: Tensor, batch: int = 0) -> Tensor:
        """uint8 (N, C, H, W) -> features (N, D) float32 on the CPU: the inputs of the last layer."""
        return self.classify_with_features(images, batch)[1]

    @torch.inference_mode()
    def classify_with_features(self, images: Tensor, batch: int = 0) -> tuple[Tensor, Tensor]:
        """(probabilities (N, K), features (N, D)) from one pass of a plain classifier.

        batch: images at a time; 0 chooses a number that suits the device.
        Raises TypeError for a noise-aware classifier, ValueError for images of another shape or type."""
        if self._folded is None:
            raise TypeError("a noise-aware classifier has no features; call log_probabilities(x, sigma)")
        shape = self.config.image_shape
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
            given = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            raise ValueError(f"the {self.config.data} classifier accepts uint8 (N, {', '.join(map(str, shape))}), not {given}")
        # CUDA's convolutions would otherwise round to TF32, which has ten bits of mantissa.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self.device.type == "cuda" else contextlib.nullcontext()
        with exact:
            parts = [
                self._folded(to_model(part.to(self.device)).contiguous(memory_format=torch.channels_last))
                for part in images.split(batch or self.batch)
            ]
        logits, features = (torch.cat(column).cpu() for column in zip(*parts))
        return logits.softmax(1), features

    def log_probabilities(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log p(class | x, sigma) (B, K) of x = x0 + sigma eps (B, C, H, W), differentiable in x.

        sigma: () or (B,). Raises TypeError for a plain classifier."""
        if not self.noise_aware:
            raise TypeError("a plain classifier takes no noise level; call classify(images)")
        return self.network(x, sigma).log_softmax(1)


def save_classifier(path: Path | str, config: ClassifierConfig, network: ResNet | NoisyResNet) -> None:
    """Write the description (its name depends on the type of config) and weights.safetensors.

    Weights are float16, the running statistics of the norms float32."""
    filename = description_file(isinstance(config, NoisyConfig))
    save_model(path, filename, {"format": FORMAT, **dataclasses.asdict(config)}, half_weights(network))


def load_classifier(path: Path | str, device: torch.device | str = "cpu", noise_aware: bool = False) -> Classifier:
    """Read a directory that save_classifier wrote. Raises CheckpointError, one sentence, for anything else."""
    kind, config_type, network_type = (
        ("noise-aware classifier", NoisyConfig, NoisyResNet) if noise_aware else ("classifier", ClassifierConfig, ResNet)
    )

    def build(raw: dict) -> tuple[ClassifierConfig, ResNet | NoisyResNet]:
        config = config_type(**raw)
        return config, network_type(config)

    _, network = read_model(path, description_file(noise_aware), kind, build)
    return Classifier(network, device, digest_of_weights(Path(path)))
