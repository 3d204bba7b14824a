"""Small real checkpoints: our file format, our network, random weights, so that nothing needs training. Fixtures of all rooms."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints import weights as checkpoints_weights
from ddpm_app.images.datasets import CIFAR10_CLASSES, MNIST_CLASSES
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig
from ddpm_app.studio.studio import Studio

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits


def make_checkpoint(path, *, size=16, channels=3, classes=CIFAR10_CLASSES, row="v", schedule="cosine", seed=0, T=1000, data="random"):
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
    return checkpoint.save(
        path, checkpoint.CheckpointConfig(config, {"name": schedule, "T": T}, row, data, tuple(classes), 1234), network.state_dict()
    )


def make_judges(root):
    """A classifier and a noise-aware one of the models' data: random weights, but sure of themselves."""
    from ddpm_app.classifiers.classifier import save_classifier
    from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet

    for name, classes, size, channels, seed in (("random", CIFAR10_CLASSES, 16, 3, 0), ("random-grey", MNIST_CLASSES, 14, 1, 1)):
        kind = dict(data=name, classes=classes, image_size=size, in_channels=channels, widths=(8, 12), blocks=(0, 1))
        for config, build, suffix in (
            (ClassifierConfig(**kind), ResNet, ""),
            (NoisyConfig(**kind, embedding=16), NoisyResNet, "-noisy"),
        ):
            torch.manual_seed(seed)
            network = build(config)
            with torch.no_grad():
                network.head.weight.normal_()
            save_classifier(root / "classifiers" / (name + suffix), config, network)


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """A directory with two models: cifar10-random (16x16 RGB, 10 classes) and mnist-random (14x14 grey, linear eps)."""
    root = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(root / "cifar10-random")
    make_checkpoint(
        root / "mnist-random", size=14, channels=1, classes=MNIST_CLASSES, row="eps", schedule="linear", seed=1, data="random-grey"
    )
    make_checkpoint(root / "plain-random", classes=(), seed=2)
    make_judges(root)
    return [root]


@pytest.fixture
def tuned(roots, tmp_path):
    """A Studio with one model more: mnist-tuned, tuned for two evaluations with guidance 2.5."""
    import dataclasses

    plain = checkpoint.open_checkpoint(roots[0] / "mnist-random")
    config = dataclasses.replace(plain.config, tuned_for=2, guidance=2.5)
    checkpoint.save(tmp_path / "models" / "mnist-tuned", config, checkpoints_weights.read_weights(plain.path))
    return Studio([*roots, tmp_path / "models"], device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def studio(roots):
    """float32: in bf16 a batch of another size rounds otherwise, which random weights blow up."""
    return Studio(roots, device="cpu", precision="fp32")


@pytest.fixture
def run_with_snapshots(tmp_path, roots, monkeypatch):
    """Run "past": three snapshots of a random network that drifts; its own EMA, 0.05, 0.1 and raw weights differ."""
    from ddpm_app.training import posthoc_ema, runs

    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "past"
    source = checkpoint.open_checkpoint(roots[0] / "mnist-random")
    weights = checkpoints_weights.read_weights(source.path)
    for k, images in enumerate((1000, 3000, 10_000), 1):
        moved = {a: {n: v * (1 + 0.02 * k * a) for n, v in weights.items()} for a in (0.05, 0.1, 0.9)}
        place = folder / "snapshots" / f"{images:010d}"
        posthoc_ema.save_averages(place, images // 10, moved[0.05], moved[0.9], {0.05: moved[0.05], 0.1: moved[0.1]})
        checkpoint.save(place, source.config, moved[0.05])
    checkpoint.save(folder, source.config, moved[0.05])
    rows = [{"step": 10 * k, "images": 100 * k, "progress": k / 100, "loss": 1 / k, "seconds": k} for k in range(1, 101)]
    rows.insert(30, {"step": 300, "images": 3000, "validation_loss": 0.25})
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return runs.Run(folder)


@pytest.fixture
def striped(tmp_path) -> Path:
    """A data set of three classes that are easy to tell apart: dark, grey and light images."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    pixels = labels[:, None, None, None] * 90 + torch.randint(0, 60, (240, 16, 16, 3), generator=g)
    np.savez(tmp_path / "striped.npz", arr_0=pixels.numpy().astype(np.uint8), arr_1=labels.numpy())
    return tmp_path / "striped.npz"
