"""Small real checkpoints for tests: our file format, our network, random weights, so that nothing needs training."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from ddpm_app import checkpoints
from ddpm_app.data import CIFAR10_CLASSES, MNIST_CLASSES
from ddpm_app.studio import Studio
from ddpm_app.unet import UNet, UNetConfig

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits


def make_checkpoint(path, *, size=16, channels=3, classes=CIFAR10_CLASSES, row="v", schedule="cosine", seed=0, T=1000):
    """A checkpoint whose output depends on everything: no zero-initialised layer is left at zero."""
    config = UNetConfig(size, channels, channels=16, multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.0, num_classes=len(classes))
    torch.manual_seed(seed)
    network = UNet(config)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.05)
        if network.label_emb is not None:
            network.label_emb.weight.normal_(std=2.0)
    return checkpoints.save(
        path, checkpoints.CheckpointConfig(config, {"name": schedule, "T": T}, row, "random", tuple(classes), 1234), network.state_dict()
    )


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """A directory with two models: cifar10-random (16x16 RGB, 10 classes) and mnist-random (14x14 grey, linear eps)."""
    root = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(root / "cifar10-random")
    make_checkpoint(root / "mnist-random", size=14, channels=1, classes=MNIST_CLASSES, row="eps", schedule="linear", seed=1)
    make_checkpoint(root / "plain-random", classes=(), seed=2)
    return [root]


@pytest.fixture(scope="session")
def studio(roots):
    """float32: in bf16 a batch of another size rounds otherwise, which random weights blow up."""
    return Studio(roots, device="cpu", precision="fp32")
