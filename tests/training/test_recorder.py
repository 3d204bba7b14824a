"""A training run: what it writes into its folder, that a resumed run writes the same files, and which flags are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ddpm_app import files as ddpm_app_files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.cli.train import main
from ddpm_app.training import posthoc_ema, process, recorder, runs

SCRIPT = Path(__file__).resolve().parents[2] / "train" / "train_unet.py"


@pytest.fixture
def script():
    """What train/train_unet.py calls, in this process (starting another one costs seconds). Restores the signal handlers."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield main
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
        [sys.executable, str(SCRIPT), *flags, "--validations", "1", "--images", "48", "--out", str(tmp_path / "whole")],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    flags += ["--validations", "0"]
    assert script([*flags, "--images", "16", "--out", str(tmp_path / "parts")]) == 0
    assert script([*flags, "--images", "48", "--out", str(tmp_path / "parts"), "--resume", "auto"]) == 0
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    # what the directory holds
    out = tmp_path / "whole"
    found = checkpoint.open_checkpoint(out)
    assert found.config.images_seen == 48 and found.config.classes == ("0", "1", "2") and found.config.training["batch"] == 8
    assert found.denoiser().network.config.image_size == 8
    log = found.log()
    assert [row["step"] for row in log if "loss" in row] == [2, 4, 6] and any("validation_loss" in row for row in log)
    assert len(list((out / "samples").glob("*.png"))) == 1 and len(list((out / "snapshots").iterdir())) == 1
    assert [r["step"] for r in checkpoint.open_checkpoint(tmp_path / "parts").log() if "loss" in r] == [2, 4, 6]


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
    checkpoint.open_checkpoint(out).denoiser()


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


def test_snapshots_hold_what_any_average_is_made_of(tmp_path, npz, script, capsys):
    """Ten snapshots and early ones by the script itself; begun anew, the old ones go to the trash; the log says how long validations took."""
    out = tmp_path / "runs" / "run"
    flags = [
        "--data",
        npz,
        *FLAGS,
        "--images",
        "160",
        "--every",
        "1",
        "--validations",
        "2",
        "--snapshots",
        "10",
        "--out",
        str(out),
        "--now",
    ]
    assert script(flags) == 0 and "went into validating and saving" in capsys.readouterr().out
    places = posthoc_ema.stored(out)
    assert {p.length for p in places} == {posthoc_ema.RAW, 0.05, 0.1} and [p.step for p in places[::3]] == [
        1,
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
        18,
        20,
    ]
    assert [p.step for p in places if p.images == 160] == [20, 20, 20]
    weights, average = posthoc_ema.reconstruct(out, 0.07)
    assert average.used == 22 and average.error < 0.02 and all(v.isfinite().all() for v in weights.values())
    final, own = load_file(out / "state.safetensors"), posthoc_ema.reconstruct(out, 0.05)[0]
    names = [n for n, _ in checkpoint.open_checkpoint(out).denoiser().network.named_parameters()]
    assert posthoc_ema.deviation(own, {n: final[f"ema.{k}"] for k, n in enumerate(names)}) < 1e-5
    assert (
        posthoc_ema.deviation(posthoc_ema.reconstruct(out, posthoc_ema.RAW)[0], {n: final[f"raw.{k}"] for k, n in enumerate(names)}) < 1e-5
    )
    assert sum(r.get("overhead_seconds", 0) for r in checkpoint.open_checkpoint(out).log()) > 0
    with pytest.raises(SystemExit):
        script(flags)  # the same line once more would take the run's place
    assert "already holds a model" in capsys.readouterr().err and len(posthoc_ema.stored(out)) == 33
    flags[flags.index("160")] = "8"
    (out / "state.safetensors").unlink()
    assert script([*flags, "--resume", "auto"]) == 0  # nothing to go on from: a run begun anew in the same folder
    assert len(posthoc_ema.stored(out)) == 3 and len(list(out.parent.glob(".trash/run-*/snapshots/*"))) == 11


def test_validations_leave_out_what_would_take_too_long(tmp_path, npz, script, monkeypatch):
    """Without a second to spare the loss is held out and the grid drawn at the thirds of the budget only; every validation saves the state."""
    out = tmp_path / "run"
    flags = [
        "--data",
        npz,
        *FLAGS,
        "--images",
        "160",
        "--every",
        "1",
        "--validations",
        "20",
        "--snapshots",
        "1",
        "--out",
        str(out),
        "--now",
    ]
    monkeypatch.setattr(recorder, "OVERHEAD", -1.0)
    assert script(flags) == 0
    rows = [r for r in checkpoint.open_checkpoint(out).log() if "overhead_seconds" in r]
    assert len(rows) == 20 and [r["step"] for r in rows if "validation_loss" in r] == [7, 14, 20]
    assert [int(p.stem) for p in sorted((out / "samples").glob("*.png"))] == [56, 112, 160]


def test_states_from_before_averages_and_prediction_type_resume(tmp_path, npz, script):
    """Older programs stored no averages, no setting of that name, and called the prediction type `row`."""
    out = tmp_path / "old"
    flags = ["--data", npz, *FLAGS, "--out", str(out), "--now", "--every", "1", "--validations", "0", "--snapshots", "1"]
    assert script([*flags, "--images", "16", "--averages", "none"]) == 0
    state = out / "state.safetensors"
    with safe_open(state, "pt") as f:
        meta = json.loads(f.metadata()["ddpm-studio"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    assert not [k for k in tensors if k.startswith("ema-")]
    del meta["config"]["averages"]
    meta["config"]["row"] = meta["config"].pop("prediction_type")
    ddpm_app_files.save_tensors(state, tensors, {"ddpm-studio": json.dumps(meta)})
    config = json.loads((out / "config.json").read_text())
    del config["training"]["averages"]
    config["row"], config["training"]["row"] = config.pop("prediction_type"), config["training"].pop("prediction_type")
    (out / "config.json").write_text(json.dumps(config))
    assert script([*flags, "--images", "24", "--resume", "auto"]) == 0
    assert checkpoint.open_checkpoint(out).config.images_seen == 24
    with pytest.raises(ValueError, match="no stored averages"):
        posthoc_ema.reconstruct(out, 0.08)


def test_seconds_run_out_while_waiting_for_a_turn(tmp_path, npz, script, capsys):
    first = process.RunProcess(tmp_path / "first", [], {})
    assert first.wait_for_device(process.device_key(torch.device("cpu")), lambda: False)
    flags = ["--data", npz, *FLAGS, "--images", "160", "--out", str(tmp_path / "second")]
    try:
        assert script([*flags, "--max-seconds", "0.5"]) == 0
    finally:
        first.close()
    assert "waiting for" in capsys.readouterr().out and json.loads((tmp_path / "second" / "end.json").read_text())["status"] == "stopped"
    with pytest.raises(SystemExit):
        script([*flags, "--max-seconds", "nan"])
    assert "--max-seconds is nan" in capsys.readouterr().err


def test_a_refused_start_leaves_the_run_as_it_is(tmp_path, npz, script, capsys):
    out = tmp_path / "run"
    flags = ["--data", npz, *FLAGS, "--validations", "0", "--snapshots", "1", "--images", "16", "--now"]
    assert script([*flags, "--out", str(out)]) == 0
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for wrong, says in (
        (["--resume", str(out), "--batch", "4"], "was started with --batch 8, not 4"),
        (["--resume", str(out), "--recipe", "classic"], "was started with --preset tiny, not ddpm"),
        ([*flags, "--out", str(out)], "already holds a model"),
        ([*flags, "--out", str(out), "--resume", "auto", "--every", "0"], "--every is 0; a number from 1"),
        ([*flags, "--out", str(out), "--resume", "auto", "--validations", "-5"], "--validations is -5"),
        ([*flags, "--out", str(out), "--resume", "auto", "--max-seconds", "0"], "--max-seconds is 0.0; a number above 0"),
    ):
        with pytest.raises(SystemExit):
            script(wrong)
        assert says in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == files
    with pytest.raises(SystemExit):  # another run's state into a folder that holds a model
        script(["--resume", str(out), "--images", "32", "--out", str(shipped(tmp_path, out))])
    assert "already holds a model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script([*flags, "--resume", "auto", "--out", str(tmp_path / "shipped")])
    assert "no state to resume from" in capsys.readouterr().err
    other = np.zeros((8, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "other.npz", arr_0=other, arr_1=np.arange(8) % 3)
    fork = ["--data", str(tmp_path / "other.npz"), *FLAGS, "--images", "8", "--init", str(out), "--out", str(tmp_path / "fork")]
    assert script(fork) == 2 and "another network: image_size 8 instead of 16" in capsys.readouterr().err


def shipped(tmp_path, out):
    """The run as a model that ships: no state, no process."""
    place = tmp_path / "shipped"
    place.mkdir()
    for name in ("config.json", "weights.safetensors"):
        (place / name).write_bytes((out / name).read_bytes())
    return place


def test_a_branch_is_a_run_of_its_own_from_its_first_second(tmp_path, npz, script, monkeypatch):
    out, branch = tmp_path / "run", tmp_path / "branch"
    flags = ["--data", npz, *FLAGS, "--validations", "0", "--snapshots", "1", "--images", "16", "--now"]
    assert script([*flags, "--out", str(out)]) == 0

    def killed(*a, **kw):
        assert (branch / "state.safetensors").is_file() and (branch / "config.json").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        script(["--resume", str(out), "--images", "32", "--out", str(branch), "--now"])
    run, started = runs.Run(branch), []
    monkeypatch.setattr(runs.Run, "status", lambda self: ("interrupted", ""))  # its process is this one, which lives
    monkeypatch.setattr(runs, "_spawn", lambda folder, argv, job: started.append(argv))
    run.resume()
    assert started[0][-4:] == ["--out", str(branch), "--resume", "auto"]
    (branch / "state.safetensors").unlink()  # killed before even that
    run.resume()
    assert started[1][-4:] == ["--out", str(branch), "--resume", str(out)]


def test_a_stop_is_told_of_to_its_last_step(tmp_path, npz, script):
    out = tmp_path / "run"
    flags = ["--data", npz, *FLAGS, "--validations", "0", "--snapshots", "1", "--minutes", "9", "--now", "--every", "100000"]
    assert script([*flags, "--every-seconds", "1000", "--max-seconds", "3", "--out", str(out)]) == 0
    rows = [r for r in checkpoint.open_checkpoint(out).log() if "loss" in r]
    assert rows and rows[-1]["images"] == checkpoint.open_checkpoint(out).config.images_seen > 0
