"""The last few runs' pictures, kept on the server so that a late page can catch up and exports can be made. Bounded."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

MAX_RUNS, MAX_BYTES = 24, 256_000_000


@dataclass
class Run:
    """frames: encoded pictures in order; meta: what the page shows beside each; captions: what an export burns in."""

    frames: list[bytes] = field(default_factory=list)
    meta: list = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


class RunStore:
    """Runs by an unguessable id; the oldest go when there are too many or they are too large."""

    def __init__(self, max_runs: int = MAX_RUNS, max_bytes: int = MAX_BYTES):
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._max_runs, self._max_bytes = max_runs, max_bytes

    def new(self) -> str:
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._runs[name], self._sizes[name] = Run(), 0
            self._trim()
        return name

    def add(self, name: str, frame: bytes, meta: object = None, caption: str = "") -> None:
        with self._lock:
            run = self._runs.get(name)
            if run is None:
                return
            run.frames.append(frame)
            run.meta.append(meta)
            run.captions.append(caption)
            self._sizes[name] += len(frame)
            self._runs.move_to_end(name)
            self._trim()

    def get(self, name: object) -> Run | None:
        """A copy of the run's lists as they are now. The name comes from the page: anything may be in it."""
        with self._lock:
            run = self._runs.get(name) if isinstance(name, str) else None
            return Run(list(run.frames), list(run.meta), list(run.captions)) if run else None

    def _trim(self) -> None:
        while len(self._runs) > 1 and (len(self._runs) > self._max_runs or sum(self._sizes.values()) > self._max_bytes):
            name, _ = self._runs.popitem(last=False)
            del self._sizes[name]


RUNS = RunStore()
