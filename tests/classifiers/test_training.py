"""Training of classifiers: augmentation, the learning rate, and both kinds trained at tiny size from the command line."""

from __future__ import annotations

import pytest
import torch

import train_classifier
from ddpm_app.classifiers import training
from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.classifiers.training import augment, one_cycle, training_levels
from ddpm_app.diffusion.schedules import SIGMA_CAP, make_schedule


def test_augmentation_shifts_mirrors_and_cuts_out():
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).view(2, 3, 6, 6) + 1
    assert torch.equal(augment(x, 0, False, 0, torch.Generator().manual_seed(0)), x)
    padded = torch.nn.functional.pad(x, [1] * 4, mode="replicate")
    allowed = [padded[:, :, a : a + 6, b : b + 6] for a in range(3) for b in range(3)]
    seen = set()
    for seed in range(40):
        y = augment(x, 1, False, 0, torch.Generator().manual_seed(seed))
        for k in range(2):
            matches = [i for i, option in enumerate(allowed) if torch.equal(option[k], y[k])]
            assert matches
            seen.update(matches)
    assert len(seen) == 9
    mirrored = augment(x.expand(2, 3, 6, 6).repeat(32, 1, 1, 1), 0, True, 0, torch.Generator().manual_seed(0))
    flips = [torch.equal(m, x[k % 2].flip(2)) for k, m in enumerate(mirrored)]
    assert 16 < sum(flips) < 48 and all(f or torch.equal(m, x[k % 2]) for k, (f, m) in enumerate(zip(flips, mirrored)))
    cut = augment(x.repeat(32, 1, 1, 1), 0, False, 3, torch.Generator().manual_seed(0))
    holes = (cut == 0).sum((1, 2, 3)) / 3
    assert holes.max() == 9 and holes.min() >= 4  # whole squares, or those an edge has cut


def test_one_cycle_rises_then_falls_linearly():
    assert [round(one_cycle(p), 6) for p in (0, 0.1, 0.2, 0.6, 1.0)] == [0, 0.5, 1.0, 0.5, 0]


def test_a_plain_classifier_trained_from_the_command_line(striped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "PHOTOS", dict(widths=(8, 16), blocks=(1, 1)))
    main, out = train_classifier.main, tmp_path / "out"
    command = ["--data", str(striped), "--epochs", "3", "--batch", "24", "--lr", "0.05", "--out", str(out), "--every", "1"]
    assert main([*command, "--precision", "fp32", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    config = load_classifier(out).config
    metric = config.metrics[0]
    assert f"test accuracy {metric['value']:.4f} (n = 24" in printed
    assert metric["value"] > 0.8 and config.images_seen == 3 * 216 and "held out" in metric["protocol"]
    card = (out / "README.md").read_text()
    assert f"{metric['value']:.2%}" in card and "--epochs 3" in card
    assert main([*command[:2], "--epochs", "1", "--batch", "24", "--lr", "1e-9", "--init", str(out), "--out", str(tmp_path / "more")]) == 0
    more = load_classifier(tmp_path / "more").config
    assert more.images_seen == 4 * 216 and more.metrics[0]["value"] >= metric["value"] - 0.05  # training continued from the weights
    assert "864 images in 2 cycles (648 after one of peak 0.05" in (tmp_path / "more" / "README.md").read_text()
    monkeypatch.setattr(training, "PHOTOS", dict(widths=(8, 12), blocks=(1, 1)))
    assert main([*command[:2], "--epochs", "1", "--init", str(out), "--out", str(out)]) == 2 and "another shape" in capsys.readouterr().err
    assert main(["--data", "nothing", "--epochs", "1", "--out", str(out)]) == 2
    with pytest.raises(SystemExit):
        main(["--data", "mnist", "--out", str(out)])


def test_training_levels_are_the_levels_of_a_sampler():
    levels = training_levels(make_schedule("cosine"))
    assert levels.max() <= SIGMA_CAP and len(levels) > 980
    assert len(training_levels(make_schedule("linear"))) == 1000


def test_a_noise_aware_classifier_trained_from_the_command_line(striped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "NOISY_PHOTOS", dict(widths=(8, 16), blocks=(0, 1)))
    out = tmp_path / "out"
    command = ["--noisy", "--data", str(striped), "--epochs", "8", "--batch", "24", "--lr", "0.05", "--out", str(out)]
    assert train_classifier.main([*command, "--precision", "fp32", "--device", "cpu"]) == 0
    capsys.readouterr()
    config = load_classifier(out, noise_aware=True).config
    metric = config.metrics[0]
    by_level = {r["sigma"]: r["value"] for r in metric["by_level"]}
    assert by_level[0.5] > 0.8 > by_level[50.0] and config.schedule == {"name": "cosine", "T": 1000} and config.training["smoothing"] == 0
    card = (out / "README.md").read_text()
    assert all(f"| {s:g} | {v:.2%} |" in card for s, v in by_level.items()) and "one draw of noise" in card
    assert not (out / "classifier.json").exists()
    more = [*command[:4], "1", *command[5:-1], str(tmp_path / "more"), "--init", str(out), "--device", "cpu"]
    assert train_classifier.main(more) == 0  # its card names both cycles
    again = load_classifier(tmp_path / "more", noise_aware=True).config
    assert (
        f"{again.images_seen} images in 2 cycles ({config.images_seen} after one of peak 0.05"
        in (tmp_path / "more" / "README.md").read_text()
    )
