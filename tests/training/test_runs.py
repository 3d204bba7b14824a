"""Runs as processes: started, queued, paused, stopped, killed, resumed, forked, deleted; and their status read off the disk."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ddpm_app.cli.main import command_parser
from ddpm_app.cli.train import main, parse
from ddpm_app.training import process
from ddpm_app.training import runs as jobs
from ddpm_app.training import runs as training_runs
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.runs import Run
from ddpm_app.training.trainer import Trainer, train

SETTINGS = {"preset": "tiny", "batch": 8, "images": 200_000, "device": "cpu"}
FAST = ["--every", "3", "--validations", "20", "--snapshots", "2000"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "runs"))
    yield tmp_path / "runs"
    for run in jobs.runs():
        if run.status()[0] in jobs.LIVE and run.job["pid"] != os.getpid():
            os.kill(run.job["pid"], 9)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "dots.npz"
    rng = np.random.default_rng(0)
    np.savez(file, arr_0=rng.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8), arr_1=np.zeros(40, np.int64))
    return str(file)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_the_life_of_two_runs_on_one_device(root, data):
    first = jobs.start({**SETTINGS, "data": data}, "first", extra=FAST)
    until(lambda: first.log())
    assert first.status() == ("running", "") and first.settings["batch"] == 8
    assert os.getsid(first.job["pid"]) == first.job["pid"] != os.getsid(0)  # closing the page's process leaves it alone
    second = jobs.start({**SETTINGS, "data": data}, "second", extra=FAST)
    until(lambda: second.status()[0] == "queued")
    assert not second.log()
    with pytest.raises(ValueError, match="stop it before"):
        first.delete()

    first.pause()  # the device goes to the next in the queue
    until(lambda: first.status()[0] == "paused" and second.log())
    seen = first.log()[-1]["step"]
    first.resume()
    until(lambda: first.status()[0] == "queued")
    os.kill(second.job["pid"], 9)
    until(lambda: second.status()[0] == "interrupted")
    until(lambda: first.log()[-1]["step"] > seen)
    assert first.status()[0] == "running"

    until(lambda: first.snapshots())
    first.stop()
    assert first.wait("stopped") == "stopped" and first.last_output().startswith("stopped:")
    (root / "second" / "log.jsonl").open("a").write('{"step": 3, "los')  # what a kill may leave
    assert all("loss" in r or "overhead_seconds" in r for r in second.log())
    second.resume()
    until(lambda: second.wait("running") == "running" and second.log())
    with pytest.raises(ValueError, match="already"):
        second.resume()
    with pytest.raises(ValueError, match="trained by another process"):
        process.RunProcess(second.folder, [], {})
    second.stop()
    second.wait("stopped")
    place = second.delete()
    assert place.parent == root / ".trash" and (place / "state.safetensors").is_file()
    assert [r.name for r in jobs.runs()] == ["first"]

    # a fork, in this process: starting another process costs seconds
    argv = jobs.flags({**SETTINGS, "data": data, "images": 16, "lr": 1e-4}, root / "fork", str(first.snapshots()[-1]))
    assert main(argv) == 0
    fork = jobs.find("fork")
    assert fork.status()[0] == "finished" and fork.progress() == 1 and "--init" in fork.command()
    with pytest.raises(ValueError, match="finished its budget"):
        fork.resume()
    wrong = jobs.flags({**SETTINGS, "data": data, "preset": "small", "images": 16}, root / "wrong", str(first.snapshots()[-1]))
    assert main(wrong) == 2 and "another network: channels 32 instead of 64" in jobs.find("wrong").status()[1]


def test_status_is_derived(root):
    folder = root / "r"
    folder.mkdir(parents=True)
    run, me = Run(folder), {"pid": os.getpid(), "started": process.process_started(os.getpid()), "claimed": True}

    def job(**fields):
        (folder / "job.json").write_text(json.dumps({**me, **fields}))
        return run.status()[0]

    assert job() == "running" and job(waiting=True) == "queued" and job(claimed=False) == "starting"
    (folder / "pause").touch()
    assert job() == "paused"
    assert job(waiting=True) == "queued" and run.status()[1].endswith("then pauses")
    run.resume()  # that, too, can be taken back
    assert not (folder / "pause").exists() and run.status()[1] == "waits until the device is free"
    with pytest.raises(ValueError, match="already queued"):
        run.resume()
    assert job(started="another boot:17") == "interrupted"  # this number belongs to another process now
    (folder / "output.txt").write_text("Traceback\ntrain_unet: no such data\n\n")
    assert job(started="x", claimed=False) == "failed" and run.status()[1] == "train_unet: no such data"
    for status in ("finished", "stopped", "failed"):
        (folder / "end.json").write_text(json.dumps({"status": status, "message": "m"}))
        assert job(started="x") == status
    (folder / "end.json").write_text('{"stat')
    assert job(started="x") == "interrupted"
    for bad in ("../r", "", "/etc", "nothing"):
        with pytest.raises(ValueError, match="no run"):
            jobs.find(bad)


def test_a_zombie_process_counts_as_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: not process.process_started(child.pid))
    child.wait()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"row": "w"}, "unknown prediction_type 'w'"),
        ({"images": 0}, "budget"),
        ({"name": "../x"}, "cannot name"),
        ({"name": "r"}, "exists"),
        ({"init": "/etc"}, "no checkpoint"),
    ],
)
def test_start_refuses_bad_settings(root, data, change, says):
    (root / "r").mkdir(parents=True)
    where = {k: change.pop(k) for k in ("name", "init") if k in change}
    with pytest.raises(ValueError, match=says):
        jobs.start({**SETTINGS, "data": data, **change}, **where)


def test_log_is_read_as_it_grows(tmp_path):
    run, file = Run(tmp_path), tmp_path / "log.jsonl"
    assert run.log() == []
    file.write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo')
    assert [r["step"] for r in run.log()] == [1]
    with file.open("a") as f:
        f.write('ss": 2}\nnot json\n{"step": 3}\n')
    assert [r["step"] for r in run.log()] == [1, 2, 3]
    file.write_text('{"step": 9}\n')
    assert [r["step"] for r in run.log()] == [9]


def small(data, **settings):
    from ddpm_app.images.datasets import load_data

    return Trainer(TrainConfig(**{**SETTINGS, "data": data, "precision": "fp32", **settings}), load_data(data))


def test_nan_names_its_step_and_never_replaces_a_good_state(data):
    trainer = small(data)
    trainer.check_finite()
    real = trainer.denoiser.loss
    object.__setattr__(trainer.denoiser, "loss", lambda *a: real(*a) * (float("nan") if trainer.step == 3 else 1))
    with pytest.raises(FloatingPointError, match="at step 4;"):
        list(train(trainer, every=8))
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.check_finite()


def test_nan_run_fails_with_the_sentence_and_keeps_its_state(root, data, capsys):
    argv = ["--data", data, "--device", "cpu", "--batch", "8", "--images", "800", "--every", "2", "--out", str(root / "n")]
    with pytest.MonkeyPatch.context() as patch:
        real = Trainer.train_step
        patch.setattr(Trainer, "train_step", lambda s: (lambda r: r if s.step < 4 else (r[0] * float("nan"), *r[1:]))(real(s)))
        assert main(argv) == 3
    status, message = Run(root / "n").status()
    assert status == "failed" and "loss is nan at step 4" in message and "intact" in message
    from safetensors.torch import load_file

    assert all(v.isfinite().all() for v in load_file(root / "n" / "state.safetensors").values())


def test_time_in_should_stop_is_no_training_time(data):
    trainer, asked = small(data, images=24), []
    begun = time.perf_counter()
    events = list(train(trainer, 1, lambda: bool(time.sleep(0.2) or asked.append(1)) and False))
    assert len(asked) == 3 == len(events)
    assert trainer.seconds < time.perf_counter() - begun - 3 * 0.2 and all(e.images_per_s > 0 for e in events)


def test_a_full_disk_keeps_the_last_state(data, tmp_path):
    """On a file system of 50 MB: room for one state, not for a second beside it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        out = disk / "run"
        argv = [sys.executable, str(jobs.SCRIPT), "--data", data, "--device", "cpu", "--batch", "8", "--images", "80", "--out", str(out)]
        done = subprocess.run([*argv, "--every", "1", "--validations", "2"], capture_output=True, text=True)
        assert done.returncode == 4, done.stderr
        status, message = Run(out).status()
        assert status == "failed" and str(out) in message and "MB are missing" in message and "intact" in message
        assert "MB are missing" in done.stderr and not list(out.rglob(".*.tmp"))
        from safetensors.torch import load_file

        assert load_file(out / "state.safetensors") and load_file(out / "weights.safetensors")
    finally:
        subprocess.run(["umount", str(disk)])


def test_full_disk_is_recognised_in_both_guises(tmp_path, monkeypatch):
    import shutil

    assert process.is_full(OSError(28, "No space left on device")) and process.is_full(RuntimeError("I/O error: ... (os error 28)"))
    assert not process.is_full(ValueError("28"))
    monkeypatch.setattr(shutil, "disk_usage", lambda p: type("U", (), {"free": 2_000_000})())
    with pytest.raises(process.DiskFull, match=r"needs 5.0 MB and 2.0 MB are free, 3.0 MB are missing"):
        process.need_room(tmp_path, 5_000_000)


def test_flags_say_what_the_settings_say():
    settings = {"data": "cifar10", "minutes": 25.0, "prediction_type": "eps", "lr": 3e-4}
    argv = jobs.flags(settings, "runs/x", init="a b", now=True)
    assert argv[:2] == ["--data", "cifar10"] and argv[-2:] == ["--out", "runs/x"]
    assert jobs.shown(argv).startswith(
        "python train/train_unet.py --data cifar10 --preset tiny --prediction-type eps"
    ) and "'a b'" in jobs.shown(argv)
    config, args = parse(argv)
    assert config == TrainConfig(**settings) and args.now and args.init == "a b"


def test_settings_stored_with_the_key_row_are_read(tmp_path):
    """Older runs store `row` in job.json and in config.json's `training`; their command is shown with --prediction-type."""
    (tmp_path / "config.json").write_text('{"training": {"row": "edm", "minutes": 1}}')
    assert Run(tmp_path).settings == {"prediction_type": "edm", "minutes": 1}
    (tmp_path / "job.json").write_text('{"settings": {"row": "eps", "minutes": 1}}')
    assert Run(tmp_path).settings == {"prediction_type": "eps", "minutes": 1}
    argv = jobs.flags({"row": "eps", "minutes": 1.0}, "runs/x")
    assert argv == jobs.flags({"prediction_type": "eps", "minutes": 1.0}, "runs/x") and "--row" not in argv


def test_row_is_an_alias_of_prediction_type(capsys):
    flags = ["--minutes", "1", "--out", "runs/x"]
    for given in (["--row", "edm"], ["--prediction-type", "edm"], ["--prediction-type", "edm", "--row", "edm"]):
        assert parse([*flags, *given])[0].prediction_type == "edm"
    with pytest.raises(SystemExit):
        parse([*flags, "--prediction-type", "edm", "--row", "v"])
    assert "--prediction-type is edm and its alias --row is v; give one of them" in capsys.readouterr().err


def test_the_command_line_lists_and_refuses(root, capsys):
    folder = root / "old"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"step": 5, "images": 40, "seconds": 2.0, "progress": 1.0, "loss": 0.5}\n')
    parser = command_parser("runs")

    def runs(*argv):
        args = parser.parse_args(argv)
        return args.run(args), capsys.readouterr().out

    assert "old" in runs()[1] and "finished" in runs("list")[1]
    assert json.loads(runs("--json")[1])[0] | {} == training_runs.facts(Run(folder))
    assert "finished" in runs("watch", "old")[1]
    with pytest.raises(ValueError, match="process is alive"):
        runs("stop", "old")
    with pytest.raises(ValueError, match="needs the name"):
        runs("delete")
    assert json.loads(runs("delete", "old", "--json")[1])["name"] == "old" and not folder.exists()
    assert "no runs" in runs()[1] and list((root / ".trash").iterdir())


def test_a_run_lengthened_from_a_shell_resumes(root, data):
    """`--resume DIR` alone names the run; what is stored of it must still start a process that finds its folder."""
    argv = [*jobs.flags({**SETTINGS, "data": data, "images": 16}, root / "r"), *FAST]
    assert main(argv) == 0
    more = ["--resume", str(root / "r"), "--images", "100000000", "--max-seconds", "2"]
    assert main(more) == 0 and jobs.find("r").status()[0] == "stopped"
    run = jobs.find("r")
    seen = run.log()[-1]["images"]
    run.resume()
    until(lambda: run.log()[-1]["images"] > seen)
    assert run.status()[0] == "running" and run.settings["images"] == 100_000_000
    assert "--max-seconds" not in run.command() and run.command().count("--resume") == run.command().count("--out") == 1
    run.stop()
    assert run.wait("stopped") == "stopped"


@pytest.mark.parametrize(
    "argv, left",
    [
        (["--a", "1", "--resume", "x", "--b"], ["--a", "1", "--b"]),
        (["--resume=x", "--out", "--resume"], []),
        (["--data", "--out", "y"], ["--data"]),
    ],
)
def test_flags_are_taken_out_with_their_values(argv, left):
    assert jobs.without(argv, ("--resume", "--out")) == left
