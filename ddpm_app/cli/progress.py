"""How far long work is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from ddpm_app.images.sets import Progress, TimeLeft

SECONDS = 60  # between two lines where stderr is no terminal


class ProgressLine:
    """Progress and the time left: one line rewritten in place on a terminal, elsewhere a line a minute.

    sampling: seconds spent on sampling so far
    """

    def __init__(self):
        self.on_terminal, self.time_left = sys.stderr.isatty(), TimeLeft()
        self.start = self.last = self.printed = time.monotonic()
        self.sampling = 0.0

    @property
    def rest(self) -> float:
        """Seconds since the start that were not spent sampling."""
        return time.monotonic() - self.start - self.sampling

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        self.sampling += now - self.last if progress.what.startswith("sampling") else 0.0
        self.last = now
        left = self.time_left.of(progress)
        line = f"{progress.what}: {progress.done:,} of {progress.total:,}" + ("" if left is None else f", {left:.0f} s left")
        if self.on_terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif now - self.printed > SECONDS:
            self.printed = now
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def drain(self, events: Iterator[Progress]):
        """Show all events; return what the generator returns."""
        while True:
            try:
                self.show(next(events))
            except StopIteration as end:
                self.clear()
                return end.value
