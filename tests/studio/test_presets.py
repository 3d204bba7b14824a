"""Fast, Good and Exact: fields of a request, Good the default, a tuned model where there is one, flags before the preset."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ddpm_app.cli.main import main
from ddpm_app.studio.presets import PRESETS, preset_fields
from ddpm_app.studio.request import Request

PLAIN, TUNED = SimpleNamespace(tuned_for=0), SimpleNamespace(tuned_for=2)


def test_good_is_the_default_and_time_grows_with_the_preset():
    assert dataclasses.replace(Request(), **PRESETS["good"]) == Request()
    assert PRESETS["fast"]["evaluations"] < PRESETS["good"]["evaluations"] < PRESETS["exact"]["evaluations"]
    for fields in PRESETS.values():
        Request(**fields)


def test_fast_takes_the_tuned_model_and_a_tuned_model_keeps_its_own_way():
    assert preset_fields("fast", "a", PLAIN, ["a", "a-fast"]) == {"checkpoint": "a-fast"}
    assert preset_fields("fast", "a", PLAIN, ["a"]) == {"checkpoint": "a", **PRESETS["fast"]}
    assert preset_fields("good", "a", PLAIN, ["a", "a-fast"])["checkpoint"] == "a"
    assert preset_fields("exact", "a-fast", TUNED, ["a", "a-fast"]) == {"checkpoint": "a-fast"}
    with pytest.raises(ValueError, match="unknown preset"):
        preset_fields("best", "a", PLAIN, ["a"])


def test_the_command_takes_a_preset_and_other_flags_win(tmp_path, roots, monkeypatch, capsys):
    monkeypatch.setattr("ddpm_app.studio.studio.model_roots", lambda: roots)
    base = ["sample", "--checkpoint", "cifar10-random", "--n", "1", "--label", "cat", "--precision", "fp32", "--out"]
    assert main([*base, str(tmp_path / "a.npz"), "--preset", "fast"]) == 0
    assert f"{PRESETS['fast']['evaluations']} evaluations" in capsys.readouterr().out
    assert main([*base, str(tmp_path / "b.npz"), "--preset", "exact", "--evaluations", "4"]) == 0
    assert "4 evaluations" in capsys.readouterr().out
    assert (np.load(tmp_path / "a.npz")["arr_0"] == np.load(tmp_path / "b.npz")["arr_0"]).all()
