"""A checkpoint survives the disk, and whatever else lies there is refused in one sentence, a pickle without being opened."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint, description
from ddpm_app.checkpoints.checkpoint import CheckpointConfig, find, open_checkpoint, save
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.checkpoints.weights import read_weights
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig
from ddpm_app.paths import PROJECT

MICRO = UNetConfig(8, 1, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), num_classes=3, dropout=0.0)
CONFIG = CheckpointConfig(MICRO, {"name": "cosine", "T": 500}, "v", "toy", ("a", "b", "c"), 123, {"lr": 1e-3}, "power", [{"fid": 3.0}])


def network(seed=0):
    torch.manual_seed(seed)
    result = UNet(MICRO)
    with torch.no_grad():
        for p in result.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return result.eval()


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "model", CONFIG, network().state_dict(), torch.float32)


def refused(action, *words):
    with pytest.raises(CheckpointError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


# -- there and back -----------------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_is_read_back(saved):
    again = open_checkpoint(saved.path)
    assert again.config == CONFIG and again.name == "model" and again.config.network.multipliers == (1, 2)
    denoiser = again.denoiser(dtype=torch.float32)
    assert denoiser.prediction_type == "v" and denoiser.schedule.name == "cosine" and denoiser.schedule.T == 500
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 400.0]), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(denoiser.network(x, t, label), network()(x, t, label), rtol=1e-4, atol=1e-5)
    assert not denoiser.network.training and not any(p.requires_grad for p in denoiser.network.parameters())


def test_a_prediction_type_stored_as_row_is_read(saved):
    """Checkpoints of earlier versions, the shipped ones among them, store the prediction type under the key `row`."""
    raw = json.loads((saved.path / "config.json").read_text())
    raw["row"], raw["training"] = raw.pop("prediction_type"), {"row": "v"}
    (saved.path / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(saved.path).config.training == {"prediction_type": "v"}
    assert open_checkpoint(saved.path).config.prediction_type == open_checkpoint(saved.path).denoiser().prediction_type == "v"


def test_fp16_is_the_default(tmp_path):
    path = save(tmp_path / "half", CONFIG, network().state_dict()).path
    assert {v.dtype for v in load_file(path / "weights.safetensors").values()} == {torch.float16}
    for name, value in read_weights(path).items():
        torch.testing.assert_close(value, network().state_dict()[name], rtol=1e-3, atol=1e-6)


def test_schedule_parameters_survive(tmp_path):
    config = dataclasses.replace(CONFIG, schedule={"name": "linear", "T": 200, "beta_start": 5e-4, "beta_end": 0.05})
    denoiser = open_checkpoint(save(tmp_path / "m", config, network().state_dict()).path).denoiser()
    assert denoiser.schedule.beta[-1] == pytest.approx(0.05) and denoiser.schedule.T == 200


def test_weights_over_the_limit_are_sharded(tmp_path):
    config = dataclasses.replace(CONFIG, network=UNetConfig(8, 1, channels=96, multipliers=(1, 2), blocks=1, attention=(), num_classes=3))
    torch.manual_seed(0)
    big = UNet(config.network).state_dict()
    path = save(tmp_path / "big", config, big).path
    files = sorted(f.name for f in path.glob("*.safetensors"))
    assert len(files) > 1 and all(f.startswith("weights-0000") for f in files) and not (path / "weights.safetensors").exists()
    assert all(f.stat().st_size < 10_000_000 for f in path.iterdir())
    index = json.loads((path / "weights.safetensors.index.json").read_text())  # huggingface_hub's own layout
    assert set(index["weight_map"]) == set(big) and set(index["weight_map"].values()) == set(files) and "total_size" in index["metadata"]
    assert all(torch.equal(v, big[k].half().float()) for k, v in read_weights(path).items())
    open_checkpoint(path).denoiser()
    (path / files[0]).unlink()
    refused(lambda: open_checkpoint(path).denoiser(), "weights")
    save(path, CONFIG, network().state_dict())  # a smaller one in its place leaves nothing behind
    assert sorted(f.name for f in path.iterdir()) == ["config.json", "weights.safetensors"]
    open_checkpoint(path).denoiser()


def test_a_failed_write_leaves_the_old_one(saved, monkeypatch):
    before = {f.name: f.read_bytes() for f in saved.path.iterdir()}

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save(saved.path, CONFIG, network(1).state_dict())
    assert {f.name: f.read_bytes() for f in saved.path.iterdir()} == before


# -- weights that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 100, -1, 0.5])
def test_truncated_weights(saved, keep):
    file = saved.path / "weights.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(saved.denoiser, "model", "cut short")


def test_hostile_headers(saved):
    file = saved.path / "weights.safetensors"
    for content in (struct.pack("<Q", 2**63), struct.pack("<Q", 10) + b"not json!!", b"\x02" + bytes(7) + b"{}", b"\x80\x04" * 50):
        file.write_bytes(content)
        refused(saved.denoiser, "model")


def test_every_kind_of_model_directory_is_read_by_the_same_function():
    """Only checkpoint.py opens weights files of models; the other kinds call read_model and so share its refusals."""
    for kind in ("classifiers/classifier.py", "classifiers/clip.py", "toy/checkpoint.py"):
        text = (PROJECT / "ddpm_app" / kind).read_text()
        assert "read_model(" in text and "load_state_dict" not in text and "isfinite" not in text, kind


def test_keys_shapes_and_values(saved):
    good = load_file(saved.path / "weights.safetensors")
    first = sorted(good)[0]
    for change, word in (
        ({k: v for k, v in good.items() if k != first}, "1 missing"),
        ({**good, "extra.weight": torch.zeros(1)}, "1 surplus"),
        ({**good, first: torch.zeros(7, 7)}, "1 misshapen"),
        ({**good, first: good[first] + float("nan")}, "1 tensors hold infinities or NaN"),
    ):
        save_file(change, saved.path / "weights.safetensors")
        refused(saved.denoiser, "model", word, "extra.weight" if "extra.weight" in change else first)


def test_another_models_weights(saved):
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(MICRO, channels=16))
    files.write_atomically(saved.path / "config.json", config.to_json())
    refused(lambda: open_checkpoint(saved.path).denoiser(), "misshapen")


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_pickles_are_refused_unopened(saved, tmp_path):
    trace = tmp_path / "trace"
    for suffix in description.PICKLES:
        file = tmp_path / f"model{suffix}"
        file.write_bytes(pickle.dumps(Bomb(trace)))
        refused(lambda file=file: open_checkpoint(file), "pickle")
    (saved.path / "weights.safetensors").rename(tmp_path / "aside")
    refused(saved.denoiser, "no weights.safetensors")
    (saved.path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    refused(saved.denoiser, "pytorch_model.bin", "not opened")
    (saved.path / "weights.safetensors").write_bytes(pickle.dumps(Bomb(trace)))
    refused(saved.denoiser, "model")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", "", "weights.safetensors\0.x"])
def test_a_shard_stays_in_its_directory(saved, tmp_path, name):
    save_file(network().state_dict(), tmp_path / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {k: name for k in network().state_dict()}}
    (saved.path / "weights.safetensors.index.json").write_text(json.dumps(index))
    refused(saved.denoiser, "model")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": null}}', "\xff"])
def test_bad_index(saved, text):
    (saved.path / "weights.safetensors.index.json").write_bytes(text.encode("latin-1"))
    refused(saved.denoiser, "model")


# -- configurations that are not ----------------------------------------------------------------------------------------


def written(saved, **changes):
    raw = json.loads(CONFIG.to_json())
    for key, value in changes.items():
        if value is None:
            del raw[key]
        elif isinstance(value, dict):
            raw[key] = {**raw[key], **value}
        else:
            raw[key] = value
    (saved.path / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(row="velocity"), "velocity"),
        (dict(row=["v"]), "model"),
        (dict(schedule={"name": "spiral"}), "spiral"),
        (dict(schedule={"T": 0}), "T is 0"),
        (dict(schedule={"T": 10**12}), "100000"),
        (dict(schedule={"beta_start": "x"}), "model"),
        (dict(format=99), "newer"),
        (dict(format=None), "format"),
        (dict(network=None), "network"),
        (dict(network={"channels": 10**9}), "U-Net"),
        (dict(network={"channels": "64"}), "model"),
        (dict(network={"multipliers": 3}), "model"),
        (dict(network={"wings": 2}), "wings"),
        (dict(surprise=1), "surprise"),
        (dict(classes=5), "model"),
        (dict(classes=["only one"]), "classes"),
    ],
)
def test_bad_configurations_are_named(saved, changes, word):
    written(saved, **changes)
    refused(lambda: open_checkpoint(saved.path), "model", word)


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", "3", '"x"', "\xff\xfe", "[" * 100_000])
def test_a_damaged_config_is_refused(saved, text):
    (saved.path / "config.json").write_bytes(text.encode("latin-1"))
    refused(lambda: open_checkpoint(saved.path), "model")


def test_paths_that_are_no_checkpoint(tmp_path):
    refused(lambda: open_checkpoint(tmp_path / "nowhere"), "nowhere", "not a directory")
    refused(lambda: open_checkpoint(tmp_path), "no config.json")
    (tmp_path / "file").write_text("x")
    refused(lambda: open_checkpoint(tmp_path / "file"), "not a directory")


def test_find_skips_what_is_broken(saved, tmp_path):
    save(tmp_path / "other" / "model", dataclasses.replace(CONFIG, data="second"), network().state_dict())
    save(tmp_path / "other" / "more", CONFIG, network().state_dict())
    (tmp_path / "other" / "broken").mkdir()
    (tmp_path / "other" / "broken" / "config.json").write_text("{")
    found = find([tmp_path, tmp_path / "other", tmp_path / "nowhere"])
    assert sorted(found) == ["model", "more"] and found["model"].config.data == "toy"


def test_log_and_card(saved):
    assert saved.log() == [] and saved.card() == ""
    (saved.path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": NaN}\n{"st')
    assert [row["step"] for row in saved.log()] == [1, 2]
    (saved.path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n---\nmore\n")
    assert saved.card() == "# A model\n---\nmore\n"
    (saved.path / "README.md").write_text("# Plain\n")
    assert saved.card() == "# Plain\n"


def test_no_pickle_is_ever_loaded():
    """The package calls no pickle, torch.load only for plain tensors, and numpy only with pickles forbidden."""
    for file in checkpoint.Path(checkpoint.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text and len(re.findall(r"torch\.load\(", text)) == len(
            re.findall(r"torch\.load\([^()]*weights_only=True\)", text)
        ), file
        assert text.count("np.load(") == text.count("allow_pickle=False"), file
