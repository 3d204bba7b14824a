"""Recordings: the pictures of the last few runs, kept on the server for pages that missed some, and for exports. Their size is limited."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

MAX_RECORDINGS, MAX_BYTES = 24, 256_000_000


@dataclass
class Recording:
    """The pictures that a run has sent to the page.

    frames      encoded pictures in order
    meta        what the page shows beside each picture
    captions    the text that an export writes into each picture
    """

    frames: list[bytes] = field(default_factory=list)
    meta: list = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


class Recordings:
    """Recordings by an unguessable name. The oldest are dropped when there are too many, or too many bytes."""

    def __init__(self, max_recordings: int = MAX_RECORDINGS, max_bytes: int = MAX_BYTES):
        self._recordings: OrderedDict[str, Recording] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._max_recordings, self._max_bytes = max_recordings, max_bytes

    def new(self) -> str:
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._recordings[name], self._sizes[name] = Recording(), 0
            self._trim()
        return name

    def add(self, name: str, frame: bytes, meta: object = None, caption: str = "") -> None:
        with self._lock:
            recording = self._recordings.get(name)
            if recording is None:
                return
            recording.frames.append(frame)
            recording.meta.append(meta)
            recording.captions.append(caption)
            self._sizes[name] += len(frame)
            self._recordings.move_to_end(name)
            self._trim()

    def get(self, name: object) -> Recording | None:
        """A copy of the recording as it is now. The name comes from the browser and may be any value."""
        with self._lock:
            recording = self._recordings.get(name) if isinstance(name, str) else None
            return Recording(list(recording.frames), list(recording.meta), list(recording.captions)) if recording else None

    def _trim(self) -> None:
        def is_over_limit() -> bool:
            return len(self._recordings) > self._max_recordings or sum(self._sizes.values()) > self._max_bytes

        while len(self._recordings) > 1 and is_over_limit():
            name, _ = self._recordings.popitem(last=False)
            del self._sizes[name]


RECORDINGS = Recordings()
