"""Training runs as separate processes: list, start, pause, stop, resume and delete them. They outlive the page and the app.

A run is a folder under paths.runs_dir(): job.json (which process, started with what), log.jsonl, samples/, snapshots/,
state.safetensors, output.txt (what the process printed) and, once it has ended by itself, end.json. The status is derived from
these files and from whether the process is alive; it is not stored.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ddpm_app.diffusion.names import rename_row
from ddpm_app.files import read_json, write_atomically
from ddpm_app.flags import write_flags
from ddpm_app.paths import PROJECT, runs_dir
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.process import alive, process_started

SCRIPT = PROJECT / "train" / "train_unet.py"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
LIVE = ("starting", "queued", "running", "paused")
_children: list[subprocess.Popen] = []  # polled in _spawn, so that ended processes do not stay zombies
_logs: OrderedDict[Path, tuple[int, int, bytes, list[dict]]] = OrderedDict()  # file: (inode, bytes read, an incomplete last line, rows)
_KEPT_LOGS = 32


@dataclass(frozen=True)
class Run:
    """The folder of a run. Each property reads the disk again."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def job(self) -> dict:
        return read_json(self.folder / "job.json")

    @property
    def created(self) -> float:
        return float(self.job.get("created") or self.folder.stat().st_mtime)

    @property
    def settings(self) -> dict:
        """The TrainConfig that the run was started with, as a dict."""
        return rename_row(self.job.get("settings") or read_json(self.folder / "config.json").get("training") or {})

    def status(self) -> tuple[str, str]:
        """(status, message).

        starting, queued, running, paused    the process is alive
        finished, stopped, failed            the process ended by itself
        interrupted                          the process died without writing end.json; the run can be resumed
        """
        job, end = self.job, read_json(self.folder / "end.json")
        if end.get("status") in ("finished", "stopped", "failed"):  # the process has ended or is about to
            return end["status"], str(end.get("message") or "")
        if alive(job):
            if not job.get("claimed"):
                return "starting", ""
            if job.get("waiting"):
                then = ", then pauses" if (self.folder / "pause").exists() else ""
                return "queued", "waits until the device is free" + then
            return ("paused", "") if (self.folder / "pause").exists() else ("running", "")
        if not job:  # trained before runs had job.json, or elsewhere
            return ("finished" if self.progress() >= 1 else "stopped"), ""
        if job.get("claimed"):
            return "interrupted", "The process died without an exit status; resume it."
        return "failed", self.last_output() or "The process ended before training started."

    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        return next((float(row["progress"]) for row in reversed(self.log()) if "progress" in row), 0.0)

    def log(self) -> list[dict]:
        """All complete lines of log.jsonl. Only new lines are read from the disk."""
        file = self.folder / "log.jsonl"
        try:
            stat = file.stat()
            inode, at, half, rows = _logs.get(file, (0, 0, b"", []))
            if inode != stat.st_ino or stat.st_size < at:
                at, half, rows = 0, b"", []
            if stat.st_size > at:
                with file.open("rb") as f:
                    f.seek(at)
                    new = f.read()
                at, *lines = at + len(new), *(half + new).split(b"\n")
                half, rows = lines.pop(), [*rows, *(r for r in map(_row, lines) if r)]
        except OSError:
            return []
        _logs[file] = (stat.st_ino, at, half, rows)
        _logs.move_to_end(file)
        while len(_logs) > _KEPT_LOGS:
            _logs.popitem(last=False)
        return rows

    def snapshots(self) -> list[Path]:
        """Checkpoint directories along the run, oldest first, without one that a kill left incomplete."""
        return sorted(p.parent for p in (self.folder / "snapshots").glob("*/config.json"))

    def newest_grid(self) -> Path | None:
        return max((self.folder / "samples").glob("[!.]*.png"), default=None)

    def last_output(self) -> str:
        """The last line the process printed."""
        try:
            with (self.folder / "output.txt").open("rb") as f:
                f.seek(max(0, f.seek(0, os.SEEK_END) - 4096))
                lines = [line.strip() for line in f.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        return lines[-1][:400] if lines else ""

    def skipped(self) -> list[str]:
        """Images that could not be read and were left out, one sentence each, as the process printed them at its start."""
        try:
            with (self.folder / "output.txt").open("rb") as f:
                text = f.read(65536).decode(errors="replace")
        except OSError:
            return []
        return [line.removeprefix("skipped ") for line in text.splitlines() if line.startswith("skipped ")]

    def command(self) -> str:
        """The command line that started the run."""
        argv = self.job.get("argv")
        return shown(argv if isinstance(argv, list) else ["--resume", str(self.folder)])

    # -- actions ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the process to save and to end. Raises ValueError if it is not alive."""
        job = self._live_job("stop")
        if not job.get("claimed"):  # the process is still importing and cannot write end.json itself
            write_atomically(self.folder / "end.json", json.dumps({"status": "stopped", "message": "", "at": time.time()}))
        os.kill(job["pid"], signal.SIGTERM)

    def pause(self) -> None:
        """Make the process save and wait at its next step. The next run in the queue gets the device."""
        self._live_job("pause")
        (self.folder / "pause").touch()

    def resume(self) -> None:
        """Continue a paused run, or start a new process that continues from the last saved state. Raises ValueError."""
        status, _ = self.status()
        if status in LIVE and (self.folder / "pause").exists():
            (self.folder / "pause").unlink(missing_ok=True)
            return
        if status in LIVE:
            raise ValueError(f"{self.name} is already {status}")
        if status == "finished":
            raise ValueError(f"{self.name} has finished its budget; fork it to train further")
        argv = self.job.get("argv")
        argv = argv if isinstance(argv, list) else []
        source = argv[argv.index("--resume") + 1] if "--resume" in argv[:-1] else "auto"
        if (self.folder / "state.safetensors").is_file():  # without a state of its own, it continues from the run it was to continue
            source = "auto"
        argv = without(argv, ("--resume", "--out", "--max-seconds"))
        _spawn(self.folder, [*argv, "--out", str(self.folder.resolve()), "--resume", source], self.job)

    def delete(self) -> Path:
        """Move the folder to .trash beside it. Returns its new place. Raises ValueError while the process is alive."""
        status, _ = self.status()
        if status in LIVE:
            raise ValueError(f"{self.name} is {status}; stop it before you delete it")
        trash = self.folder.parent / ".trash"
        trash.mkdir(exist_ok=True)
        place = trash / f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        k = 1
        while place.exists():
            place, k = place.with_name(f"{place.name}-{k}"), k + 1
        return self.folder.rename(place)

    def wait(self, *statuses: str, seconds: float = 60) -> str:
        """Wait until the status is one of these or the process has ended. Returns the status."""
        until = time.monotonic() + seconds
        while (status := self.status()[0]) not in statuses and status in LIVE and time.monotonic() < until:
            time.sleep(0.1)
        return status

    def _live_job(self, verb: str) -> dict:
        job = self.job
        if not alive(job):
            raise ValueError(f"{self.name} is {self.status()[0]}; only a run whose process is alive can {verb}")
        return job


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def runs(root: Path | None = None) -> list[Run]:
    """All runs in a folder (default: paths.runs_dir()), newest first."""
    root = root or runs_dir()
    folders = {p.parent for pattern in ("*/job.json", "*/log.jsonl") for p in root.glob(pattern)}
    return sorted((Run(p) for p in folders if not p.name.startswith(".")), key=lambda r: (-r.created, r.name))


def find(name: str, root: Path | None = None) -> Run:
    """The run of this name. Raises ValueError for anything else, including paths."""
    by_name = {run.name: run for run in runs(root)}
    if name not in by_name:
        raise ValueError(f"no run {str(name)[:80]!r}; there are: {', '.join(by_name) or 'none'}")
    return by_name[name]


def check_name(name: str) -> str:
    """The name, if a run may have it. Raises ValueError for other texts, including paths."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot name a run; up to 60 letters, digits, '.', '_' and '-' are accepted, a letter or a digit first"
        )
    return name


def free_name(stem: str, root: Path | None = None) -> str:
    """stem-1, stem-2, ...: the first that does not exist yet. Characters that a run's name may not contain become dashes."""
    root, k = root or runs_dir(), 1
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:50] or "run"
    while (root / f"{stem}-{k}").exists():
        k += 1
    return f"{stem}-{k}"


def flags(settings: dict, out: Path | str, init: str = "", now: bool = False) -> list[str]:
    """The arguments of train_unet.py for these TrainConfig fields. Defaults are left out, except the data, preset, prediction
    type and schedule."""
    argv = write_flags(TrainConfig(**rename_row(settings)))
    return [*argv, *(["--init", init] if init else []), *(["--now"] if now else []), "--out", str(out)]


def without(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """The arguments without these flags and their values: "--flag value" or "--flag=value"."""
    kept, skip = [], False
    for arg in argv:
        if not skip and arg.partition("=")[0] not in names:
            kept.append(arg)
        skip = not skip and arg in names
    return kept


def shown(argv: list[str]) -> str:
    """The command line as it is typed in the project's folder."""
    return "python train/train_unet.py " + shlex.join(short(a) for a in argv)


def short(path: str) -> str:
    """A path inside the project, relative to it; other texts are returned unchanged."""
    return path[len(str(PROJECT)) + 1 :] if path.startswith(str(PROJECT) + os.sep) else path


def start(
    settings: dict, name: str = "", root: Path | None = None, init: str = "", now: bool = False, extra: list[str] | None = None
) -> Run:
    """Start a run in a new folder. Raises ValueError.

    settings: fields of TrainConfig. init: a checkpoint or snapshot directory whose weights it starts with (a fork).
    now: do not wait for the device. extra: more arguments of train_unet.py.
    """
    root = root or runs_dir()
    name = name or free_name(f"{Path(str(settings.get('data', 'mnist'))).stem}-{settings.get('preset', 'tiny')}", root)
    check_name(name)
    if init and not (Path(init) / "config.json").is_file():
        raise ValueError(f"{init[:200]} is no checkpoint to start from; a directory with config.json and weights is accepted")
    folder = root.resolve() / name
    argv = [*flags(settings, folder, init and str(Path(init).resolve()), now), *(extra or [])]
    root.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise ValueError(f"{folder} exists already; give the run another name") from None
    _spawn(folder, argv, {"settings": settings, "created": time.time()})
    return Run(folder)


def _spawn(folder: Path, argv: list[str], job: dict) -> None:
    """Start the process in its own session, so that it outlives this process and does not receive its signals."""
    _children[:] = [c for c in _children if c.poll() is None]
    for name in ("end.json", "pause"):
        (folder / name).unlink(missing_ok=True)
    cwd = job.get("cwd") if os.path.isdir(job.get("cwd") or "") else str(PROJECT)
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", str(SCRIPT), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
    _children.append(process)
    started = process_started(process.pid)
    now = {"pid": process.pid, "started": started, "claimed": False, "waiting": False, "queued": time.time(), "argv": argv, "cwd": cwd}
    if not read_json(folder / "job.json").get("pid") == process.pid:  # unless the process has already written its own
        write_atomically(folder / "job.json", json.dumps({**job, **now}, indent=1))


def facts(run: Run) -> dict:
    """A run's status, newest numbers and command as one flat dict."""
    status, message = run.status()
    log = run.log()
    rows = [r for r in log if "loss" in r]
    last = rows[-1] if rows else {}
    progress, seconds = last.get("progress", 0.0), last.get("seconds", 0.0)
    return {
        "name": run.name,
        "status": status,
        "message": message,
        "progress": progress,
        "step": last.get("step", 0),
        "images": last.get("images", 0),
        "loss": last.get("loss"),
        "validation_loss": next((r["validation_loss"] for r in reversed(log) if "validation_loss" in r), None),
        "images_per_s": last.get("images_per_s"),
        "lr": last.get("lr"),
        "grad_norm": last.get("grad_norm"),
        "memory_mb": last.get("memory_mb"),
        "overhead": sum(r["overhead_seconds"] for r in log if "overhead_seconds" in r) / seconds if seconds else None,
        "seconds": seconds,
        "eta_seconds": seconds * (1 - progress) / progress if progress else None,
        "created": run.created,
        "folder": str(run.folder),
        "command": run.command(),
    }
