"""What a training process writes into its run folder, how it waits for the device, and how it pauses.

job.json      which process trains, its command line and its settings
end.json      how the process ended; written only when it ends by itself
pause         while this file exists, the process waits between two steps
.turn-DEVICE  beside the run folders: the lock of the run that trains on that device

The status of a run is not stored. runs.Run.status() derives it from these files and from whether the process is alive.
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
except ImportError:  # Windows has no flock: runs do not wait for each other there
    fcntl = None

POLL = 0.25  # seconds between two checks of the queue or of the pause file
RESERVE = 65536  # bytes reserved, so that end.json can be written even on a full disk


class DiskFull(OSError):
    """The disk is full. The message is one sentence with the path and the missing MB."""


def process_started(pid: int) -> str:
    """A text that identifies the process together with its pid, because the system reuses pids. "" if it ended or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    except (OSError, IndexError):
        if sys.platform == "linux":
            return ""
    state, *start = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.split() or [""]
    return "" if state.startswith("Z") else " ".join(start)


def alive(job: dict) -> bool:
    """Whether the process that wrote this job.json is alive: same pid, same start time."""
    pid, started = job.get("pid"), job.get("started")
    return isinstance(pid, int) and bool(started) and process_started(pid) == started


def explain_full(path: Path, need: int) -> DiskFull:
    """The error for `need` bytes that do not fit on the disk of `path`."""
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    missing = max(need - free, 1)
    needs = f"{path} needs {need / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
    return DiskFull(f"the disk is full: {needs}, {max(missing / 1e6, 0.1):.1f} MB are missing; the last saved state is intact")


def need_room(path: Path, need: int) -> None:
    """Raise DiskFull if `need` bytes do not fit on the disk of `path`."""
    if shutil.disk_usage(path if path.is_dir() else path.parent).free < need:
        raise explain_full(path, need)


def is_full(error: BaseException) -> bool:
    """Whether an exception means that the disk is full. safetensors raises its own type, with the system's error in the text."""
    return getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)


class RunProcess:
    """This process and the run folder it trains into. A lock on the folder keeps any second process out.

    folder     the run's folder; made if missing
    job        what job.json holds
    Raises ValueError if the folder cannot be made or if another process trains into it.
    """

    def __init__(self, folder: Path, argv: list[str], settings: dict):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{folder} cannot be a run's folder: it is a file, or a file is on its path") from None
        self._folder_lock = _try_lock(folder / ".lock")
        if self._folder_lock is None:
            raise ValueError(f"{folder} is being trained by another process; stop that process, or give another --out")
        self._device_lock = None
        self._queue: Path | None = None  # the lock file of the device
        previous = read_json(folder / "job.json")
        started_by_page = previous.get("pid") == os.getpid()  # runs.start has written job.json for this process
        for name in ("end.json", "pause"):
            (folder / name).unlink(missing_ok=True)
        for partial in [*folder.glob(".*.tmp"), *folder.glob("s*/.*.tmp"), *folder.glob("snapshots/*/.*.tmp")]:
            partial.unlink()  # left by a killed process
        (folder / ".reserve").write_bytes(b"\0" * RESERVE)
        self.job = {
            "pid": os.getpid(),
            "started": process_started(os.getpid()),
            "host": socket.gethostname(),
            "claimed": True,
            "waiting": False,
            "created": previous.get("created") or time.time(),
            "queued": (started_by_page and previous.get("queued")) or time.time(),
            "argv": argv,
            "cwd": os.getcwd(),
            "settings": settings,
        }
        self._write_job()

    def _write_job(self) -> None:
        write_atomically(self.folder / "job.json", json.dumps(self.job, indent=1))

    def record(self, **facts) -> None:
        """Add facts to job.json."""
        self.job |= facts
        self._write_job()

    # -- one run at a time on a device ------------------------------------------------------------------------------

    def wait_for_device(self, device: str, should_stop: Callable[[], bool], say: Callable[[str], None] = print) -> bool:
        """Wait until no run in a neighbouring folder trains on the device and none that came earlier waits for it.

        device: a name from device_key(). say: told which runs this one waits for. Returns False if should_stop() ended the wait.
        """
        self._queue, last_message = self.folder.parent / f".turn-{device}", ""
        while True:
            earlier = self._earlier_runs()
            if not earlier:
                self._device_lock = _try_lock(self._queue)
                if self._device_lock is not None:
                    if self.job["waiting"]:
                        self.record(waiting=False)
                    return True
            if not self.job["waiting"]:
                self.record(waiting=True, queue=self._queue.name)
            message = f"waiting for {', '.join(earlier) or 'another run'} on {device}"
            if message != last_message:
                say(message)
                last_message = message
            if should_stop():
                return False
            time.sleep(POLL)

    def _earlier_runs(self) -> list[str]:
        """Names of the living runs that wait for the same device and came earlier."""
        names = []
        for file in self.folder.parent.glob("*/job.json"):
            job = read_json(file)
            if file.parent != self.folder and job.get("waiting") and job.get("queue") == self._queue.name and alive(job):
                if (job.get("queued", 0), job["pid"]) < (self.job["queued"], self.job["pid"]):
                    names.append(file.parent.name)
        return names

    def pause_if_asked(self, save: Callable[[], None], should_stop: Callable[[], bool]) -> None:
        """While the file `pause` exists: save, release the device to the next run, and wait. Then queue for the device again."""
        if not (self.folder / "pause").exists():
            return
        save()
        print("paused, state saved", flush=True)
        had_device = self._device_lock is not None
        _unlock(self._device_lock)
        self._device_lock = None
        while (self.folder / "pause").exists() and not should_stop():
            time.sleep(POLL)
        if had_device and not should_stop():
            self.job["queued"] = time.time()
            self.wait_for_device(self._queue.name.removeprefix(".turn-"), should_stop)
        print("resumed", flush=True)

    def discard_after(self, images: int) -> None:
        """Remove snapshots and sample images of steps that will be trained again. If images is 0, the whole run starts over: what the
        earlier run left is then moved to .trash beside the folder."""
        patterns = ("snapshots/*", "samples/*.png", "history/*/*.png")
        outdated = [p for pattern in patterns for p in self.folder.glob(pattern) if _images_seen(p) > images]
        if outdated and not images:
            trash = self.folder.parent / ".trash" / f"{self.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            for p in outdated:
                target = trash / p.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                p.rename(target)
        else:
            for p in outdated:
                shutil.rmtree(p) if p.is_dir() else p.unlink()

    # -- the end ----------------------------------------------------------------------------------------------------

    def end(self, status: str, message: str = "") -> None:
        """Write end.json. status: finished, stopped or failed. message: the error of a failed run."""
        (self.folder / ".reserve").unlink(missing_ok=True)
        write_atomically(self.folder / "end.json", json.dumps({"status": status, "message": message, "at": time.time()}))

    def close(self) -> None:
        """Release the locks and remove temporary files."""
        (self.folder / ".reserve").unlink(missing_ok=True)
        (self.folder / "pause").unlink(missing_ok=True)
        _unlock(self._device_lock)
        _unlock(self._folder_lock)


class Follower:
    """Stands in for RunProcess in the processes of rank 1 and up, which write nothing into the folder.

    They need not pause: they wait for rank 0 at the next exchange.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def wait_for_device(self, *_) -> bool:
        return True

    def _nothing(self, *_, **__) -> None:
        pass

    pause_if_asked = record = end = discard_after = close = _nothing


def device_key(device) -> str:
    """The name of a device's queue: "cpu", "mps", or a GPU's uuid. A GPU's index may differ between processes."""
    if device.type != "cuda":
        return device.type
    import torch

    index = device.index if device.index is not None else torch.cuda.current_device()
    return "cuda-" + str(getattr(torch.cuda.get_device_properties(index), "uuid", index))


def _images_seen(path: Path) -> int:
    """The number of images seen, read from the name of a snapshot or sample grid; -1 for other names."""
    return int(path.stem) if path.stem.isdecimal() else -1


def _try_lock(file: Path):
    """The file, opened and locked, or None if another process holds the lock. The system releases it when the process ends."""
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
