"""Shared by these tests: a random classifier and model, named data sets of random pixels, a cache of their own, the command line."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ddpm_app import files
from ddpm_app.checkpoints.measurements import Measurement
from ddpm_app.classifiers.classifier import save_classifier
from ddpm_app.cli import main as cli
from ddpm_app.evaluation import evaluate as evaluation
from ddpm_app.evaluation import image_metrics, protocol
from ddpm_app.evaluation.evaluate import evaluate
from ddpm_app.evaluation.plan import Plan
from ddpm_app.evaluation.protocol import Refusal
from ddpm_app.images.datasets import CIFAR10_CLASSES, ImageData
from ddpm_app.networks.resnet import ClassifierConfig, ResNet
from ddpm_app.studio.studio import Request, Studio

CONFIG = ClassifierConfig("cifar10", CIFAR10_CLASSES, image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1))
MODEL = "cifar10-random"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation"


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    torch.manual_seed(0)
    network = ResNet(CONFIG)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    path = tmp_path_factory.mktemp("classifier")
    save_classifier(path, CONFIG, network)
    return str(path)


@pytest.fixture
def no_real_data(monkeypatch):
    """The named sets, at the size of the networks here."""

    def load(source, part="train", image_size=None, unlabelled=False):
        n = {"train": 120, "test": 60}[part]
        g = torch.Generator().manual_seed(n)
        labels = torch.arange(n) % 10
        return ImageData(source, torch.randint(0, 256, (n, 3, 16, 16), generator=g, dtype=torch.uint8), labels, CIFAR10_CLASSES)

    real = protocol.load_data
    for module in (evaluation, protocol, image_metrics):
        monkeypatch.setattr(module, "load_data", lambda s, *a, **k: (load if s in ("cifar10", "mnist") else real)(s, *a, **k))


@pytest.fixture
def model(studio):
    """The random model calls its data "random"; here it has learnt CIFAR-10."""
    path = studio.checkpoint(MODEL).path
    config = studio.checkpoint(MODEL).config
    files.write_atomically(path / "config.json", dataclasses.replace(config, data="cifar10").to_json())
    yield MODEL
    files.write_atomically(path / "config.json", config.to_json())
    (path / "metrics.json").unlink(missing_ok=True)


def plan(classifier_folder, n=80, metrics=("fid",), **options):
    request = Request(MODEL, options.pop("label", "all"), n, 1.0, "ddim", 2, seed=options.pop("seed", 0))
    return Plan(request, tuple(metrics), options.pop("features", ("classifier",)), classifier=classifier_folder, **options)


def done(studio, plan):
    events = list(evaluate(studio, plan))
    return {e.name: e for e in events if isinstance(e, Measurement)}, {e.metric: e.reason for e in events if isinstance(e, Refusal)}, events


@pytest.fixture
def shell(roots, classifier_folder, model, monkeypatch, capsys):
    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))

    def call(*flags):
        code = cli.main(["evaluate", "--classifier", classifier_folder, "--sampler", "ddim", "--evaluations", "2", *flags])
        return code, *capsys.readouterr()

    return call
