"""Releasing a toy: the files written, and the measured numbers in the card."""

import pytest

from ddpm_app.toy import card, release
from ddpm_app.toy.checkpoint import load_toy
from ddpm_app.toy.training import ToyTrainConfig


def test_the_config_and_the_card_of_a_released_toy_contain_its_measured_numbers(tmp_path, monkeypatch):
    for module in (card, release):
        monkeypatch.setattr(module, "TEST_POINTS", 40)
    lines, config = [], ToyTrainConfig(width=16, steps=20, batch=32, T=50)
    release.release(tmp_path / "m", {"name": "moons", "n": 200}, config, "the command", lines.append)
    model, text = load_toy(tmp_path / "m"), (tmp_path / "m" / "README.md").read_text()
    names = [m["name"] for m in model.metrics]
    assert names[:4] == ["EMD", "EMD, data against data", "NLL, ODE", "NLL, bound"] and names[-1] == "accuracy, Bayes"
    assert all(f"| {m['name']} | {m['value']:.4f}" in text and m["n"] == 40 for m in model.metrics)
    assert "class-conditional (upper, lower)" in text and "    the command\n" in text
    assert lines[0].startswith("m: 200 points") and lines[1].startswith("step 1 of 20") and lines[-1] == str(tmp_path / "m")


def test_an_unknown_shipped_model_is_refused_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'sun'; known: moons|unknown model 'sun'; did you mean 'moons'"):
        release.release_shipped(["moons", "sun"], tmp_path, print)
    assert not list(tmp_path.iterdir())
