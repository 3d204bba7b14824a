"""The noise-aware classifier: dependence on the noise level, gradient, saving and loading, the shipped ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.checkpoint import CheckpointError
from ddpm_app.classifiers.classifier import Classifier, load_classifier, save_classifier
from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.diffusion.schedules import add_noise, make_schedule
from ddpm_app.images.datasets import load_data
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.resnet import NoisyConfig, NoisyResNet
from ddpm_app.paths import data_roots

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(p.parent for p in (PROJECT / "checkpoints" / "classifiers").glob("*/noisy_classifier.json"))
TINY = NoisyConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1), embedding=16)


def network(config: NoisyConfig = TINY) -> NoisyResNet:
    """Random weights everywhere, the zero-initialised ones and the running statistics included."""
    torch.manual_seed(0)
    net = NoisyResNet(config)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.randn_like(value) * 0.2 + (1 if "running_var" in name or "norm" in name else 0))
                if "running_var" in name:
                    value.abs_()
    return net


X = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_output_depends_on_the_level_and_not_on_the_batch():
    log_probabilities = Classifier(network()).log_probabilities
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 50.0], dtype=torch.float64)
    log_p = log_probabilities(X, sigma)
    assert log_p.shape == (6, 3) and torch.allclose(log_p.exp().sum(1), torch.ones(6))
    for i in range(6):
        assert torch.allclose(log_probabilities(X[i : i + 1], sigma[i])[0], log_p[i], atol=1e-5)
    same = log_probabilities(X[:1].expand(6, -1, -1, -1), sigma)
    assert (same[1:] - same[:-1]).abs().amax(1).min() > 1e-3  # the level matters at every level
    lowest = float(make_schedule("cosine").sigma[0])
    assert torch.equal(log_probabilities(X, 0.0), log_probabilities(X, lowest / 2)) or torch.allclose(
        log_probabilities(X, 0.0), log_probabilities(X, lowest / 2), atol=1e-3
    )


def test_the_gradient_equals_central_differences():
    net = network().double().eval()
    x = X[:2].double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x, 1.5).log_softmax(1)[:, 1].sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        up, down = (net(x + h * direction, 1.5).log_softmax(1)[:, 1].sum() for h in (1e-5, -1e-5))
    assert float((up - down) / 2e-5) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)  # c_in in float32


def test_save_and_load_and_refuse_the_other_kind(tmp_path):
    net = network()
    save_classifier(tmp_path / "c", TINY, net)
    again = load_classifier(tmp_path / "c", noise_aware=True)
    assert again.config == TINY and len(again.digest) == 64
    assert torch.allclose(again.log_probabilities(X, 1.0), Classifier(net).log_probabilities(X, 1.0), atol=5e-3)  # fp16 on disk
    assert checkpoint.find([tmp_path]) == {}
    with pytest.raises(CheckpointError, match="no classifier"):
        load_classifier(tmp_path / "c")


def test_damaged_directories_are_refused_in_one_sentence(tmp_path):
    config, weights = tmp_path / "noisy_classifier.json", tmp_path / "weights.safetensors"

    def broken(change, word):
        save_classifier(tmp_path, TINY, network())
        change()
        with pytest.raises(CheckpointError, match=word) as caught:
            load_classifier(tmp_path, noise_aware=True)
        assert "\n" not in str(caught.value)

    def edited(**changes):
        return lambda: config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))

    broken(lambda: weights.write_bytes(weights.read_bytes()[:-100]), "cut short")
    broken(lambda: config.unlink(), "not a noise-aware classifier")
    broken(lambda: config.write_text("{"), "does not describe")
    broken(edited(format=9), "newer")
    broken(edited(schedule={"name": "none"}), "does not describe")
    broken(edited(embedding=7), "does not describe")
    broken(edited(widths=[8, 16]), "misshapen")
    nan = {k: v * float("nan") if v.is_floating_point() else v for k, v in network().state_dict().items() if "num_batches" not in k}
    broken(lambda: files.save_tensors(weights, nan), "NaN")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_classifiers_agree_with_their_cards(path):
    classifier = load_classifier(path, noise_aware=True)
    assert path.name == f"{classifier.config.data}-noisy" and (path / "weights.safetensors").stat().st_size < 4e6
    card = (path / "README.md").read_text()
    rows = classifier.config.metrics[0]["by_level"]
    assert all(f"| {r['sigma']:g} | {r['value']:.2%} | {r['nll']:.4f} |" in card for r in rows)
    values = [r["value"] for r in rows if r["sigma"] >= 0.5]
    assert values == sorted(values, reverse=True)  # more noise, fewer right
    if not any((r / f"{classifier.config.data}-test.npz").exists() for r in data_roots()):
        pytest.skip("the real test split is not here")
    test = load_data(classifier.config.data, "test")
    x, n = to_model(test.images[:300]), 300
    x = add_noise(x, torch.tensor(1.0), torch.randn(x.shape, generator=torch.Generator().manual_seed(9)))
    with torch.inference_mode():
        right = int((classifier.log_probabilities(x, 1.0).argmax(1) == test.labels[:n]).sum())
    low, high = wilson_interval(right, n)
    assert low - 0.02 <= next(r["value"] for r in rows if r["sigma"] == 1.0) <= high + 0.02


def test_two_noise_aware_classifiers_ship():
    assert [p.name for p in SHIPPED] == ["cifar10-noisy", "mnist-noisy"]
