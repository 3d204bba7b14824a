"""train/train_unet.py: a budget in, a checkpoint directory out; stopped and resumed, it writes the same files."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_app import checkpoints

SCRIPT = Path(__file__).resolve().parents[1] / "train" / "train_unet.py"


@pytest.fixture
def script(monkeypatch):
    """train/train_unet.py's main, in this process (starting another one costs seconds); signal handlers are put back."""
    spec = importlib.util.spec_from_file_location("train_unet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield module.main
    for name, handler in handlers.items():
        signal.signal(name, handler)


@pytest.fixture
def npz(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "toy.npz", arr_0=images, arr_1=np.arange(24) % 3)
    return str(tmp_path / "toy.npz")


FLAGS = ["--preset", "tiny", "--batch", "8", "--lr", "1e-3", "--warmup", "0", "--decay", "none", "--device", "cpu", "--precision", "fp32"]


def test_the_script_resumes_exactly(tmp_path, npz, script):
    """48 images in one go, by the script as a process of its own, and 16 then 32 more in two: the same files."""
    flags = ["--data", npz, *FLAGS, "--snapshots", "1", "--every", "2"]
    whole = subprocess.run(
        [sys.executable, str(SCRIPT), *flags, "--marks", "1", "--images", "48", "--out", str(tmp_path / "whole")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    flags += ["--marks", "0"]
    assert script([*flags, "--images", "16", "--out", str(tmp_path / "parts")]) == 0
    assert script([*flags, "--images", "48", "--out", str(tmp_path / "parts"), "--resume", "auto"]) == 0
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    # what the directory holds
    out = tmp_path / "whole"
    found = checkpoints.open_checkpoint(out)
    assert found.config.images_seen == 48 and found.config.classes == ("0", "1", "2") and found.config.training["batch"] == 8
    assert found.denoiser().network.config.image_size == 8
    log = found.log()
    assert [row["step"] for row in log if "loss" in row] == [2, 4, 6] and any("validation_loss" in row for row in log)
    assert len(list((out / "samples").glob("*.png"))) == 1 and len(list((out / "snapshots").iterdir())) == 1
    assert [r["step"] for r in checkpoints.open_checkpoint(tmp_path / "parts").log() if "loss" in r] == [2, 4, 6]


def test_resuming_what_is_not_there_trains_nothing(tmp_path, npz, script, capsys):
    for config in (None, "{"):
        run = tmp_path / "typo"
        if config:
            run.mkdir()
            (run / "config.json").write_text(config)
            (run / "state.safetensors").write_bytes(b"")
        with pytest.raises(SystemExit) as stop:
            script(["--data", npz, *FLAGS, "--images", "8", "--resume", str(run)])
        assert stop.value.code == 2 and "--resume" in capsys.readouterr().err
        assert not (run / "log.jsonl").exists()


def test_the_script_stops_in_time_saved(tmp_path, npz, script, capsys):
    out = tmp_path / "run"
    flags = ["--data", npz, *FLAGS, "--images", "1000000", "--out", str(out)]
    assert script([*flags, "--max-seconds", "0.01"]) == 0
    assert "stopped" in capsys.readouterr().out and (out / "state.safetensors").is_file()
    checkpoints.open_checkpoint(out).denoiser()


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--data", "nowhere", "--images", "8"], "nowhere"),
        (["--images", "8", "--minutes", "1"], "budget"),
        (["--images", "0"], "budget"),
        (["--images", "8", "--batch", "0"], "batch"),
        (["--images", "8", "--row", "velocity"], "velocity"),
        (["--images", "8", "--schedule", "spiral"], "spiral"),
        (["--images", "8", "--lr", "x"], "lr"),
        (["--images", "8", "--T", "1"], "T is 1"),
    ],
)
def test_the_script_names_what_is_wrong(tmp_path, npz, script, capsys, flags, word):
    try:
        code = script(["--data", npz, "--preset", "tiny", "--out", str(tmp_path / "run"), *flags])
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err
    assert code == 2 and word in said.splitlines()[-1] and "Traceback" not in said
