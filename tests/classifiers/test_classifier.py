"""Classifiers of images, plain and noise-aware: their outputs, saving and loading, errors for damaged directories, the shipped ones."""

from __future__ import annotations

import json

import pytest
import torch

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.classifiers.classifier import Classifier, load_classifier, save_classifier
from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.diffusion.schedules import add_noise, make_schedule
from ddpm_app.images.datasets import load_data
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.resnet import ClassifierConfig
from ddpm_app.paths import SHIPPED, data_roots
from tests.networks.test_resnet import NOISY, PLAIN, random_network

SHIPPED_PLAIN = sorted(p.parent for p in (SHIPPED / "classifiers").glob("*/classifier.json"))
SHIPPED_NOISY = sorted(p.parent for p in (SHIPPED / "classifiers").glob("*/noisy_classifier.json"))
X = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def images(n: int, config: ClassifierConfig = PLAIN, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, config.in_channels, config.image_size, config.image_size), generator=g, dtype=torch.uint8)


def test_outputs_do_not_depend_on_the_batch():
    classifier = Classifier(random_network(PLAIN))
    x = images(7)
    probabilities, features = classifier.classify_with_features(x, batch=3)
    assert probabilities.shape == (7, 3) and features.shape == (7, 12)
    assert torch.allclose(probabilities.sum(1), torch.ones(7))
    assert torch.allclose(probabilities, classifier.classify(x), atol=1e-5)
    assert torch.allclose(features, torch.cat([classifier.features(x[k : k + 1]) for k in range(7)]), atol=1e-4)


@pytest.mark.parametrize("bad", [images(2).float(), images(2)[0], images(2)[:, :1], images(2)[:, :, :8], images(2)[:0]])
def test_images_of_another_shape_or_type_are_refused(bad):
    with pytest.raises(ValueError, match="toy classifier accepts uint8"):
        Classifier(random_network(PLAIN)).classify(bad)


def test_a_saved_classifier_loads_the_same(tmp_path):
    net = random_network(PLAIN)
    save_classifier(tmp_path / "c", PLAIN, net)
    again = load_classifier(tmp_path / "c")
    assert again.config == PLAIN and len(again.digest) == 64
    assert torch.allclose(again.classify(images(9)), Classifier(net).classify(images(9)), atol=2e-3)  # fp16 on disk
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["classifier.json", "weights.safetensors"]
    assert checkpoint.find([tmp_path]) == {}  # no diffusion model


def weights_of(net) -> dict:
    return {k: v for k, v in net.state_dict().items() if "num_batches" not in k}


def test_damaged_directories_are_refused_in_one_sentence(tmp_path):
    def broken(change, word):
        save_classifier(tmp_path, PLAIN, random_network(PLAIN))
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
    extra = {**weights_of(random_network(PLAIN)), "extra.weight": torch.zeros(1)}
    broken(lambda: files.save_tensors(weights, extra), "surplus")
    infinite = {k: v + float("inf") if v.is_floating_point() else v for k, v in weights_of(random_network(PLAIN)).items()}
    broken(lambda: files.save_tensors(weights, infinite), "tensors hold infinities or NaN")


@pytest.mark.skipif(not SHIPPED_PLAIN, reason="no classifier ships")
@pytest.mark.parametrize("path", SHIPPED_PLAIN, ids=lambda p: p.name)
def test_shipped_classifiers_agree_with_their_cards(path):
    classifier = load_classifier(path)
    metric = next(m for m in classifier.config.metrics if m["name"] == "accuracy")
    assert f"{metric['value']:.2%}" in (path / "README.md").read_text()
    assert 0.2e6 < sum(p.numel() for p in classifier.network.parameters()) and (path / "weights.safetensors").stat().st_size < 10e6
    assert metric["value"] >= {"mnist": 0.993, "cifar10": 0.93, "digits": 0.97}[path.name]
    assert metric["n"] == (360 if path.name == "digits" else 10_000)
    try:
        test = load_data(path.name, "test") if any((r / f"{path.name}-test.npz").exists() for r in data_roots()) else None
    except ValueError:
        test = None
    if test is None:
        pytest.skip("the real test split is not here")
    n = min(1000 if path.name == "mnist" else 300, len(test))
    right = int((classifier.classify(test.images[:n]).argmax(1) == test.labels[:n]).sum())
    low, high = wilson_interval(right, n)
    assert low - 0.01 <= metric["value"] <= high + 0.01


# -- noise-aware ----------------------------------------------------------------------------------------------------------


def test_the_output_depends_on_the_level_and_not_on_the_batch():
    log_probabilities = Classifier(random_network(NOISY)).log_probabilities
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


def test_a_saved_noise_aware_classifier_loads_only_as_one(tmp_path):
    net = random_network(NOISY)
    save_classifier(tmp_path / "c", NOISY, net)
    again = load_classifier(tmp_path / "c", noise_aware=True)
    assert again.config == NOISY and len(again.digest) == 64
    assert torch.allclose(again.log_probabilities(X, 1.0), Classifier(net).log_probabilities(X, 1.0), atol=5e-3)  # fp16 on disk
    assert checkpoint.find([tmp_path]) == {}
    with pytest.raises(CheckpointError, match="no classifier"):
        load_classifier(tmp_path / "c")


def test_damaged_directories_of_noise_aware_classifiers_are_refused_in_one_sentence(tmp_path):
    config, weights = tmp_path / "noisy_classifier.json", tmp_path / "weights.safetensors"

    def broken(change, word):
        save_classifier(tmp_path, NOISY, random_network(NOISY))
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
    nan = {k: v * float("nan") if v.is_floating_point() else v for k, v in weights_of(random_network(NOISY)).items()}
    broken(lambda: files.save_tensors(weights, nan), "NaN")


@pytest.mark.parametrize("path", SHIPPED_NOISY, ids=lambda p: p.name)
def test_shipped_noise_aware_classifiers_agree_with_their_cards(path):
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
    assert [p.name for p in SHIPPED_NOISY] == ["cifar10-noisy", "mnist-noisy"]
