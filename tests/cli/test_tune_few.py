"""train/tune_few.py: settings from the teacher, a small real run with measured validations, and its model in the Studio."""

from __future__ import annotations

import json

import pytest
import torch

from ddpm_app.checkpoints import checkpoint
from ddpm_app.cli import train, tune_few
from ddpm_app.networks import unet_config
from ddpm_app.networks.unet import UNet
from ddpm_app.studio.studio import Studio


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """A model of random weights that says how it was trained, on an .npz of random pictures."""
    import numpy as np

    monkeypatch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0))
    rng = np.random.default_rng(0)
    data = tmp_path / "pictures.npz"
    np.savez(data, arr_0=rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), arr_1=np.arange(40) % 10)
    config = unet_config.preset_config("micro", image_size=8, in_channels=3, num_classes=10)
    torch.manual_seed(0)
    training = {"data": str(data), "preset": "micro", "row": "v", "schedule": "cosine", "T": 100}
    stored = checkpoint.CheckpointConfig(config, {"name": "cosine", "T": 100}, "v", "pictures", tuple("0123456789"), 7, training)
    return checkpoint.save(tmp_path / "teacher", stored, UNet(config).state_dict()).path


def flags(out, *more):
    return [
        "--images",
        "12",
        "--batch",
        "4",
        "--teacher-evaluations",
        "3",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--out",
        str(out),
        *more,
    ]


def test_a_run_is_tuned_resumed_and_sampled(teacher, tmp_path, capsys):
    out = tmp_path / "runs" / "fast"
    assert tune_few.main([str(teacher), *flags(out, "--teacher-guidance", "2", "--tuned-for", "2", "--validations", "2")]) == 0
    assert "the samples are not measured" in capsys.readouterr().err  # no classifier knows these pictures
    config = checkpoint.open_checkpoint(out).config
    assert (config.tuned_for, config.guidance, config.images_seen) == (2, 2.0, 12)
    assert (config.training["T"], config.training["prediction_type"], config.training["batch"]) == (100, "v", 4)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["images"] for r in rows if "validation_loss" in r][-1] == 12 and list((out / "samples").glob("*12.png"))
    assert train.main(["--resume", str(out), "--images", "20", "--out", str(out)]) == 0
    assert checkpoint.open_checkpoint(out).config.images_seen == 20
    request = Studio([out.parent], device="cpu").request("fast", n=2)
    assert (request.sampler, request.evaluations, request.guidance) == ("consistency", 2, 2.0)


def test_what_cannot_be_tuned_is_one_sentence(teacher, tmp_path, capsys):
    assert tune_few.main([str(tmp_path / "nothing"), *flags(tmp_path / "a")]) == 2
    assert "not a directory" in capsys.readouterr().err
    model = checkpoint.open_checkpoint(teacher)
    foreign = checkpoint.save(tmp_path / "foreign", checkpoint.CheckpointConfig(**{**vars(model.config), "training": {}}), weights(model))
    assert tune_few.main([str(foreign.path), *flags(tmp_path / "b")]) == 2
    assert "does not say its data and preset" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tune_few.main(["--minutes", "3"])
    assert "the first argument is the teacher" in capsys.readouterr().err


def weights(model):
    from ddpm_app.checkpoints.weights import read_weights

    return read_weights(model.path)


def test_few_evaluations_are_measured_at_validations():
    """The shipped classifier reads samples of a denoiser that draws one fixed picture: one class of ten is right."""
    from ddpm_app.diffusion.schedules import make_schedule
    from ddpm_app.evaluation.agreement import few_evaluations

    class Fixed:
        schedule, device, calls = make_schedule("cosine"), torch.device("cpu"), 0

        def __call__(self, x, sigma, label):
            self.calls += 1
            assert label.tolist() == [k for k in range(10) for _ in range(2)]
            return torch.full_like(x, -1.0)

    denoiser = Fixed()
    row = few_evaluations("mnist", (1, 2), per_class=2)(denoiser)
    assert list(row) == ["agreement at 1", "FD-classifier at 1", "agreement at 2", "FD-classifier at 2"]
    assert row["agreement at 1"] == row["agreement at 2"] == pytest.approx(0.1) and row["FD-classifier at 1"] > 1 and denoiser.calls == 3
