"""A training process's own side of a run folder: who it is, its turn on the device, its pauses, and how it ended.

job.json says which process it is and what it was started with; end.json how it ended; a file named `pause` holds it. Only facts
are written here: what a run's status is, jobs.Run derives from them and from whether the process lives.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ddpm_app.files import read_json, write_atomically

try:
    import fcntl
except ImportError:  # Windows has no flock: no queue there
    fcntl = None

POLL = 0.25  # seconds between looks at the queue or the pause file
RESERVE = 65536  # bytes kept back, so that a full disk still holds the sentence that says so


class DiskFull(OSError):
    """One sentence: which path, how many MB are missing."""


def process_started(pid: int) -> str:
    """When that process began, as a text that no later process of the same number shares; "" when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    except (OSError, IndexError):
        if sys.platform == "linux":
            return ""
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.split()
    return "" if not shown or shown[0].startswith("Z") else " ".join(shown[1:])


def alive(job: dict) -> bool:
    """Whether the process of this job.json lives: the same number and the same beginning."""
    pid, started = job.get("pid"), job.get("started")
    return isinstance(pid, int) and bool(started) and process_started(pid) == started


def explain_full(path: Path, need: int) -> DiskFull:
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    missing = max(need - free, 1)
    needs = f"{path} needs {need / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
    return DiskFull(f"the disk is full: {needs}, {max(missing / 1e6, 0.1):.1f} MB are missing; what was saved before is intact")


def need_room(path: Path, need: int) -> None:
    """Raise DiskFull before a byte is written, if `need` bytes do not fit beside what is there."""
    if shutil.disk_usage(path if path.is_dir() else path.parent).free < need:
        raise explain_full(path, need)


def is_full(error: BaseException) -> bool:
    """Whether an exception says that the disk is full; safetensors wraps the system's in one of its own."""
    return getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)


class Seat:
    """The run folder of this process, held for its lifetime so that no second process trains into it."""

    def __init__(self, folder: Path, argv: list[str], settings: dict):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{folder} cannot hold a run: it is a file, or lies below one") from None
        self._lock = _locked(folder / ".lock")
        if self._lock is None:
            raise ValueError(f"{folder} is being trained by another process; stop that one first, or take another --out")
        self._turn, self._queue = None, None
        before = read_json(folder / "job.json")
        mine = before.get("pid") == os.getpid()
        for name in ("end.json", "pause"):
            (folder / name).unlink(missing_ok=True)
        for left in [*folder.glob(".*.tmp"), *folder.glob("s*/.*.tmp"), *folder.glob("snapshots/*/.*.tmp")]:
            left.unlink()  # cut short by a kill; nobody else writes here
        (folder / ".reserve").write_bytes(b"\0" * RESERVE)
        self.job = {
            "pid": os.getpid(),
            "started": process_started(os.getpid()),
            "host": socket.gethostname(),
            "claimed": True,
            "waiting": False,
            "created": before.get("created") or time.time(),
            "queued": (mine and before.get("queued")) or time.time(),
            "argv": argv,
            "cwd": os.getcwd(),
            "settings": settings,
        }
        self._write()

    def _write(self) -> None:
        write_atomically(self.folder / "job.json", json.dumps(self.job, indent=1))

    def note(self, **facts) -> None:
        """Add to job.json."""
        self.job |= facts
        self._write()

    # -- one run a device -------------------------------------------------------------------------------------------

    def take_turn(self, device: str, should_stop: Callable[[], bool], tell: Callable[[str], None] = print) -> bool:
        """Wait until no other run of this folder of runs trains on the device and no earlier one waits. False: told to stop."""
        self._queue, told = self.folder.parent / f".turn-{device}", ""
        while True:
            ahead = self._ahead()
            if not ahead:
                self._turn = _locked(self._queue)
                if self._turn is not None:
                    if self.job["waiting"]:
                        self.job["waiting"] = False
                        self._write()
                    return True
            if not self.job["waiting"]:
                self.job |= {"waiting": True, "queue": self._queue.name}
                self._write()
            line = f"waiting for {', '.join(ahead) or 'another run'} on {device}"
            if line != told:
                tell(line)
                told = line
            if should_stop():
                return False
            time.sleep(POLL)

    def _ahead(self) -> list[str]:
        ahead = []
        for file in self.folder.parent.glob("*/job.json"):
            job = read_json(file)
            if file.parent != self.folder and job.get("waiting") and job.get("queue") == self._queue.name and alive(job):
                if (job.get("queued", 0), job["pid"]) < (self.job["queued"], self.job["pid"]):
                    ahead.append(file.parent.name)
        return ahead

    def pause_point(self, save: Callable[[], None], should_stop: Callable[[], bool]) -> None:
        """Return at once, or, where the file `pause` lies, save, give the device to the next in the queue, and wait for it to go."""
        if not (self.folder / "pause").exists():
            return
        save()
        print("paused, state saved", flush=True)
        queue, held = self._queue, self._turn is not None
        _unlock(self._turn)
        self._turn = None
        while (self.folder / "pause").exists() and not should_stop():
            time.sleep(POLL)
        if held and not should_stop():
            self.job["queued"] = time.time()
            self.take_turn(queue.name.removeprefix(".turn-"), should_stop)
        print("goes on", flush=True)

    def drop_after(self, images: int) -> None:
        """Take away the snapshots, grids and the time machine's pictures of steps that are run again. Those of a whole run begun anew go
        to .trash."""
        places = ("snapshots/*", "samples/*.png", "history/*/*.png")
        late = [p for pattern in places for p in self.folder.glob(pattern) if _count(p) > images]
        if late and not images:
            trash = self.folder.parent / ".trash" / f"{self.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            for p in late:
                place = trash / p.relative_to(self.folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                p.rename(place)
        elif late:
            for p in late:
                shutil.rmtree(p) if p.is_dir() else p.unlink()

    # -- the end ----------------------------------------------------------------------------------------------------

    def end(self, status: str, message: str = "", step: int | None = None) -> None:
        """Write down how it ended: finished, stopped or failed."""
        (self.folder / ".reserve").unlink(missing_ok=True)
        write_atomically(self.folder / "end.json", json.dumps({"status": status, "message": message, "step": step, "at": time.time()}))

    def close(self) -> None:
        (self.folder / ".reserve").unlink(missing_ok=True)
        (self.folder / "pause").unlink(missing_ok=True)
        _unlock(self._turn)
        _unlock(self._lock)


def device_key(device) -> str:
    """The name of a device's queue: "cpu", or a GPU by what it is rather than by its number, which differs between processes."""
    if device.type != "cuda":
        return device.type
    import torch

    index = device.index if device.index is not None else torch.cuda.current_device()
    return "cuda-" + str(getattr(torch.cuda.get_device_properties(index), "uuid", index))


def _count(path: Path) -> int:
    """The number of images in a snapshot's or grid's name; -1: another name."""
    return int(path.stem) if path.stem.isdecimal() else -1


def _locked(file: Path):
    """An open file that this process alone holds, or None. The system lets go of it when the process ends, however it ends."""
    handle = file.open("a")
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            return None
    return handle


def _unlock(handle) -> None:
    if handle is not None:
        handle.close()
