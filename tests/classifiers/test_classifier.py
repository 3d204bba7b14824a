"""The plain classifier: intervals, saving and loading, the shipped ones; judge.py, which measures models with it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.checkpoint import CheckpointError
from ddpm_app.classifiers.classifier import Classifier, load_classifier, save_classifier
from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.images.datasets import load_data
from ddpm_app.networks.resnet import ClassifierConfig, ResNet, folded

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(p.parent for p in (PROJECT / "checkpoints" / "classifiers").glob("*/classifier.json"))
TINY = ClassifierConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, PROJECT / "train" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(n: int, config: ClassifierConfig = TINY, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, config.in_channels, config.image_size, config.image_size), generator=g, dtype=torch.uint8)


def network(config: ClassifierConfig = TINY) -> ResNet:
    """Random weights everywhere, the zero-initialised ones and the running statistics included."""
    torch.manual_seed(0)
    net = ResNet(config)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.randn_like(value) * 0.2 + (1 if "running_var" in name or "norm" in name else 0))
                if "running_var" in name:
                    value.abs_()
    return net


# -- numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hits, n, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (95, 100, 0.8882, 0.9785)]
)
def test_wilson_interval(hits, n, low, high):
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=6e-5)  # tables of Newcombe 1998 and Agresti & Coull
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(n + 1, n)


# -- the network and its files --------------------------------------------------------------------------------------------


def test_outputs_do_not_depend_on_the_batch():
    classifier = Classifier(network())
    x = images(7)
    probabilities, features = classifier.classify_with_features(x, batch=3)
    assert probabilities.shape == (7, 3) and features.shape == (7, 12)
    assert torch.allclose(probabilities.sum(1), torch.ones(7))
    assert torch.allclose(probabilities, classifier.classify(x), atol=1e-5)
    assert torch.allclose(features, torch.cat([classifier.features(x[k : k + 1]) for k in range(7)]), atol=1e-4)


@pytest.mark.parametrize("bad", [images(2).float(), images(2)[0], images(2)[:, :1], images(2)[:, :, :8], images(2)[:0]])
def test_images_of_another_shape_or_type_are_refused(bad):
    with pytest.raises(ValueError, match="toy classifier accepts uint8"):
        Classifier(network()).classify(bad)


def test_save_and_load(tmp_path):
    net = network()
    save_classifier(tmp_path / "c", TINY, net)
    again = load_classifier(tmp_path / "c")
    assert again.config == TINY and len(again.digest) == 64
    assert torch.allclose(again.classify(images(9)), Classifier(net).classify(images(9)), atol=2e-3)  # fp16 on disk
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["classifier.json", "weights.safetensors"]
    assert checkpoint.find([tmp_path]) == {}  # no diffusion model


def load_file_of(net: ResNet) -> dict:
    return {k: v for k, v in net.state_dict().items() if "num_batches" not in k}


def test_damaged_directories_are_refused_in_one_sentence(tmp_path):
    def broken(change, word):
        save_classifier(tmp_path, TINY, network())
        change()
        with pytest.raises(CheckpointError, match=word) as caught:
            load_classifier(tmp_path)
        assert "\n" not in str(caught.value)

    config, weights = tmp_path / "classifier.json", tmp_path / "weights.safetensors"
    raw = json.dumps({"format": 1, "data": "toy", "classes": ["a", "b", "c"], "image_size": 16, "widths": [8, 12], "blocks": [1, 1]})
    broken(lambda: weights.write_bytes(weights.read_bytes()[:-100]), "cut short")
    broken(lambda: weights.unlink(), "no weights")
    broken(lambda: config.unlink(), "no classifier")
    broken(lambda: config.write_text("{"), "does not describe")
    broken(lambda: config.write_text("[]"), "does not describe")
    broken(lambda: config.write_text(raw.replace('"format": 1', '"format": 9')), "newer")
    broken(lambda: config.write_text(raw.replace("[8, 12]", "[8, 100000]")), "does not describe")
    broken(lambda: config.write_text(raw.replace("[8, 12]", "[8, 16]")), "misshapen")
    broken(lambda: config.write_text(raw.replace("[1, 1]", "[1, 2]")), "missing")
    extra = {**load_file_of(network()), "extra.weight": torch.zeros(1)}
    broken(lambda: files.save_tensors(weights, extra), "surplus")
    infinite = {k: v + float("inf") if v.is_floating_point() else v for k, v in load_file_of(network()).items()}
    broken(lambda: files.save_tensors(weights, infinite), "tensors hold infinities or NaN")


@pytest.mark.skipif(not SHIPPED, reason="no classifier ships")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_classifiers_agree_with_their_cards(path):
    classifier = load_classifier(path)
    metric = next(m for m in classifier.config.metrics if m["name"] == "accuracy")
    assert f"{metric['value']:.2%}" in (path / "README.md").read_text()
    assert 0.2e6 < sum(p.numel() for p in classifier.network.parameters()) and (path / "weights.safetensors").stat().st_size < 10e6
    assert metric["value"] >= {"mnist": 0.993, "cifar10": 0.93, "digits": 0.97}[path.name]
    assert metric["n"] == (360 if path.name == "digits" else 10_000)
    try:
        test = load_data(path.name, "test") if any((r / f"{path.name}-test.npz").exists() for r in _roots()) else None
    except ValueError:
        test = None
    if test is None:
        pytest.skip("the real test split is not here")
    n = min(1000 if path.name == "mnist" else 300, len(test))
    right = int((classifier.classify(test.images[:n]).argmax(1) == test.labels[:n]).sum())
    low, high = wilson_interval(right, n)
    assert low - 0.01 <= metric["value"] <= high + 0.01


def _roots():
    from ddpm_app.paths import data_roots

    return data_roots()


def test_a_folded_network_gives_the_same_outputs():
    net = network().eval()
    x = torch.randn(5, 3, 16, 16)
    with torch.inference_mode():
        for got, want in zip(folded(net)(x), net(x)):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert not any("norm" in name for name in folded(net).state_dict())
    assert "norm.running_var" in net.state_dict(), "the network itself stays as it was"
