"""A set of images of which only a part is in memory, and the progress of work on it."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Progress(NamedTuple):
    """How far a piece of work is.

    what: what is done, in words
    done, total: images or tiles
    """

    what: str
    done: int
    total: int


class TimeLeft:
    """Estimates the seconds left of one stretch of work from its own pace."""

    def __init__(self):
        self.what, self.begun, self.first = "", 0.0, 0

    def of(self, progress: Progress) -> float | None:
        """None until the stretch has advanced."""
        now = time.monotonic()
        if progress.what != self.what:
            self.what, self.begun, self.first = progress.what, now, progress.done
        advanced = progress.done - self.first
        return (now - self.begun) / advanced * (progress.total - progress.done) if advanced > 0 else None


@dataclass(frozen=True)
class Images:
    """A set of images of which only a part is in memory.

    n: number of images
    shape: (C, H, W)
    part: part(a, b) returns the images a to b - 1, uint8 (b - a, C, H, W)
    """

    n: int
    shape: tuple[int, int, int]
    part: Callable[[int, int], Tensor]

    def __len__(self) -> int:
        return self.n

    @classmethod
    def from_tensor(cls, images: Tensor) -> Images:
        """The set of the images of a tensor, uint8 (N, C, H, W). Raises ValueError for any other tensor."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise ValueError(f"images are uint8 (N, 1 or 3, H, W), not {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}")
        return cls(len(images), tuple(images.shape[1:]), lambda a, b: images[a:b])

    def head(self, n: int) -> Images:
        """The first n images, or all where there are fewer."""
        return dataclasses.replace(self, n=min(n, self.n))

    def span(self, a: int, b: int) -> Images:
        """The images a to b - 1."""
        return Images(b - a, self.shape, lambda i, j: self.part(a + i, a + j))

    def all(self) -> Tensor:
        """All images, uint8 (N, C, H, W)."""
        return self.part(0, self.n)

    def digest(self) -> str:
        """SHA-256 of the shape and the pixels."""
        h = hashlib.sha256(repr((self.n, self.shape)).encode())
        for a in range(0, self.n, 4096):
            h.update(self.part(a, min(a + 4096, self.n)).contiguous().numpy().tobytes())
        return h.hexdigest()
