"""Agreement with the requested labels: the report, the preset of evaluate and train/judge.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.checkpoint import CheckpointConfig
from ddpm_app.checkpoints.measurements import card_rows
from ddpm_app.classifiers.classifier import save_classifier
from ddpm_app.cli import main as cli
from ddpm_app.evaluation.agreement import split_test_images
from ddpm_app.images.datasets import ImageData
from ddpm_app.networks.resnet import ClassifierConfig, ResNet
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig

TINY = ClassifierConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parents[2] / "train" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_classifier() -> ResNet:
    """Random weights, the zero-initialised ones too."""
    torch.manual_seed(0)
    network = ResNet(TINY)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return network


@pytest.fixture
def conditional(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    config = UNetConfig(image_size=16, in_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention=(), num_classes=3)
    net = UNet(config)
    torch.nn.init.normal_(net.conv_out.weight, std=0.3)
    described = CheckpointConfig(config, {"name": "cosine", "T": 100}, "v", "striped", ("a", "b", "c"), images_seen=7)
    checkpoint.save(tmp_path / "model", described, dict(net.named_parameters()))
    save_classifier(tmp_path / "classifier", TINY, small_classifier())
    return tmp_path / "model"


def test_judge_prints_its_figures_and_stores_them(conditional, striped, capsys):
    judge = script("judge")
    command = [
        str(conditional),
        "--classifier",
        str(conditional.parent / "classifier"),
        "--data",
        str(striped),
        "--evaluations",
        "3",
        "--device",
        "cpu",
    ]
    assert judge.main([*command, "--n", "4", "--sampler", "ddpm", "--seed", "5", "--write"]) == 0
    result = json.loads(capsys.readouterr().out)
    g, r, p = result["generated"], result["real"], result["protocol"]
    assert g["n"] == 12 and r["n"] == 12 and sum(g["read_as"].values()) == 12
    assert g["interval95"][0] <= g["agreement"] <= g["interval95"][1]
    assert g["agreement"] == pytest.approx(np.mean(list(g["agreement_by_class"].values())), abs=1e-3)
    assert 1 / 3 <= g["mean_max_confidence"] <= 1
    assert g["FD-classifier"] > r["FD-classifier"] >= 0
    assert p["evaluations"] == 3 and p["grid"] == "uniform-t" and p["images_seen"] == 7 and len(p["classifier"]["sha256"]) == 64
    assert judge.main([*command, "--n", "1", "--write"]) == 0
    capsys.readouterr()
    metrics = card_rows(checkpoint.open_checkpoint(conditional))
    assert [m["name"] for m in metrics] == ["agreement", "FD-classifier"] * 2
    assert metrics[0]["value"] == g["agreement"] and metrics[1]["value"] == g["FD-classifier"]
    assert "n 12, sampler ddpm, evaluations 3" in metrics[0]["protocol"] and metrics[0]["settings"] == {"n": 12} | p
    assert checkpoint.open_checkpoint(conditional).config.metrics == []


def test_the_preset_and_judge_print_the_same(conditional, striped, capsys):
    flags = ["--classifier", str(conditional.parent / "classifier"), "--n", "2", "--evaluations", "3", "--device", "cpu"]
    assert script("judge").main([str(conditional), "--data", str(striped), *flags]) == 0
    judged = json.loads(capsys.readouterr().out)
    preset = ["evaluate", "--preset", "agreement", "--checkpoint", str(conditional), "--against", str(striped)]
    assert cli.main([*preset, *flags]) == 0
    assert json.loads(capsys.readouterr().out) == judged
    assert cli.main([*preset, *flags, "--metrics", "fid"]) == 2 and "does not use --metrics" in capsys.readouterr().err


def test_real_images_are_not_measured_against_themselves():
    data = ImageData("x", torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1), torch.arange(60) // 2 % 3, ("a", "b", "c"))
    reference, real = split_test_images(data, 4, 20)
    assert len(reference) == 20 and len(real) == 12 and torch.bincount(real.labels).tolist() == [4, 4, 4]
    assert not set(reference.flatten().tolist()) & set(real.images.flatten().tolist())
    assert len(split_test_images(data, 1000, 5000)[1]) == 30


def test_judge_refuses_what_does_not_fit_in_one_sentence(conditional, striped, tmp_path, capsys):
    judge = script("judge")
    wrong = ClassifierConfig("grey", ("a", "b", "c"), image_size=16, in_channels=1, widths=(8,), blocks=(1,))
    save_classifier(tmp_path / "wrong", wrong, ResNet(wrong))
    for command, word in (
        ([str(tmp_path / "nothing")], "not a directory"),
        ([str(conditional), "--classifier", str(tmp_path / "nothing")], "is accepted as a classifier"),
        ([str(conditional), "--classifier", str(tmp_path / "wrong"), "--data", str(striped)], "does not fit"),
        ([str(conditional), "--classifier", str(tmp_path / "classifier")], "no data set"),
    ):
        assert judge.main([*command, "--n", "1"]) == 2
        captured = capsys.readouterr()
        assert word in captured.err and captured.out == "" and len(captured.err.splitlines()) == 1
