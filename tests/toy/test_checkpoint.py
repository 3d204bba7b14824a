"""A toy model saved and loaded, and the errors for damaged directories."""

import json

import pytest
import torch

from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.files import save_tensors
from ddpm_app.toy.checkpoint import load_toy, save_toy
from ddpm_app.toy.shapes import make_data
from ddpm_app.toy.training import ToyTrainConfig, train_one


def test_a_saved_toy_loads_the_same_and_damaged_files_are_refused(tmp_path):
    data = make_data("moons", n=500)
    config = ToyTrainConfig(width=16, steps=20, batch=32, T=50)
    d = train_one(config, data)
    save_toy(tmp_path / "m", d, data, config, {"name": "moons", "n": 500})
    model = load_toy(tmp_path / "m")
    x = torch.randn(8, 2)
    assert torch.equal(
        model.denoiser(x, torch.tensor(0.3), torch.ones(8, dtype=torch.int64)), d(x, torch.tensor(0.3), torch.ones(8).long())
    )
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    raw["row"], raw["training"]["row"] = raw.pop("prediction_type"), raw["training"].pop("prediction_type")  # the key of older files
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw))
    older = load_toy(tmp_path / "m")
    assert older.denoiser.prediction_type == "v" and older.training == model.training
    assert model.classes == data.classes and model.scale == data.scale and torch.equal(model.center, data.center)
    endless = {k: v + float("nan") for k, v in d.network.state_dict().items()}
    save_tensors(tmp_path / "m" / "weights.safetensors", endless)
    with pytest.raises(CheckpointError, match="tensors hold infinities or NaN"):
        load_toy(tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cut short"):
        load_toy(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"kind": "toy"}')
    with pytest.raises(CheckpointError, match="does not describe"):
        load_toy(tmp_path / "m")
    with pytest.raises(CheckpointError, match="pickle"):
        load_toy(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="not a toy model"):
        load_toy(tmp_path)
