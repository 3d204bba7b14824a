"""What a run logs elsewhere: event files that TensorBoard reads, trackers by name, and none that can end a run."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ddpm_app.training import trackers
from ddpm_app.training.trackers import Trackers, check, scalars

ROW = {"step": 4, "images": 64, "loss": 0.5, "loss_by_level": [0.1, None, *[0.2] * 8], "lr": 1e-3, "grad_norm": 2.0, "images_per_s": 9.0}
PICTURE = Image.fromarray(np.full((6, 9, 3), 200, np.uint8))


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_reads_what_was_logged(tmp_path):
    with Trackers("", tmp_path, {"lr": 1e-3}) as t:
        t.log(ROW)
        t.log({**ROW, "step": 8, "loss": 0.25, "grad_norm": float("nan")})
        t.log({"step": 8, "images": 128, "validation_loss": 0.4})
        t.picture(PICTURE, 8)
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(4, 0.5), (8, 0.25)]
    assert [e.step for e in found.Scalars("train/grad_norm")] == [4], "what is no number is left out"
    assert found.Scalars("validation/loss")[0].value == pytest.approx(0.4) and found.Scalars("loss_by_level/2")[0].value == pytest.approx(
        0.2
    )
    assert "loss_by_level/1" not in found.Tags()["scalars"] and found.Images("samples")[0].width == 9
    with Trackers("", tmp_path, {}, step=4) as t:  # resumed from step 4: step 8 is run again
        t.log({**ROW, "step": 8, "loss": 0.75})
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("train/loss")] == [(4, 0.5), (8, 0.75)]


def test_tracker_names_are_checked(monkeypatch):
    assert check("") == [] and check("tensorboard") == ["tensorboard"]
    with pytest.raises(ValueError, match="unknown tracker 'mlflow'; known: tensorboard, wandb, trackio"):
        check("mlflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackio is not installed: pip install trackio"):
        check("trackio")
    assert scalars({"step": 1, "images": 3}) == {"progress/images": 3.0}


def stand_in(monkeypatch, name, **functions):
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_wandb_and_trackio_get_the_same(monkeypatch, tmp_path):
    said = []
    run = types.SimpleNamespace(log=lambda v, step: said.append(("w", step, v)), finish=lambda: said.append("w ends"))
    stand_in(monkeypatch, "wandb", init=lambda **k: said.append(("wandb", k)) or run, Image=lambda p: p.size)
    stand_in(
        monkeypatch, "trackio", init=lambda **k: said.append(("trackio", k)), Image=lambda p: p.size,
        log=lambda v, step: said.append(("t", step, v)), finish=lambda: said.append("t ends"),
    )  # fmt: skip
    with Trackers("wandb, trackio", tmp_path / "digits", {"lr": 1.0}, step=2) as t:
        t.log(ROW)
        t.picture(PICTURE, 4)
    (_, wandb), (_, trackio) = said[:2]
    assert wandb["name"] == trackio["name"] == "digits" and wandb["config"] == trackio["config"] == {"lr": 1.0}
    assert wandb["resume"] == "allow" and len(wandb["id"]) == 16
    assert said[2] == ("w", 4, scalars(ROW)) and said[3] == ("t", 4, scalars(ROW)) and scalars(ROW)["train/loss"] == 0.5
    assert said[4:] == [("w", 4, {"samples": (9, 6)}), ("t", 4, {"samples": (9, 6)}), "w ends", "t ends"]


def test_a_tracker_that_breaks_ends_no_run(monkeypatch, tmp_path):
    def lost(*_, **__):
        raise OSError("connection lost")

    told = []
    stand_in(monkeypatch, "wandb", init=lambda **k: types.SimpleNamespace(log=lost, finish=lost))
    with Trackers("wandb", tmp_path, {}, tell=told.append) as t:
        t.log(ROW)
        t.log(ROW)
    assert told == ["wandb failed (connection lost); training continues without it"] and read(tmp_path).Scalars("train/loss")
    stand_in(monkeypatch, "wandb", init=lost)
    with pytest.raises(ValueError, match=r"wandb could not start \(connection lost\)"):
        Trackers("wandb", tmp_path, {})
    monkeypatch.setattr(trackers.TensorBoard, "__init__", lost)
    with Trackers("", tmp_path, {}, tell=told.append) as t:
        t.log(ROW)
    assert told[1:] == ["no TensorBoard files: connection lost"]
    with Trackers("", tmp_path / "other", {}, on=False) as t:
        t.log(ROW)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_wandb_itself_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Trackers("wandb", tmp_path, {"lr": 1.0}) as t:
        t.log(ROW)
        t.picture(PICTURE, 4)
        assert "wandb" in t.kept
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
