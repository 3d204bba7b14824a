"""Tensors kept on disk under a hash, with a SHA-256 of their own: a damaged cache would be a wrong number."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddpm_app.files import save_tensors


def load_cached(file: Path) -> dict[str, Tensor]:
    """Tensors of a cache file, {} where it is missing, cut short or not what was written: it is then made again."""
    try:
        found = load_file(file)
        with safe_open(file, "pt") as f:
            digest = (f.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return {}
    return found if digest == _digest(found) else {}


def save_cached(file: Path, tensors: dict[str, Tensor]) -> None:
    """What load_cached reads, with a SHA-256: a damaged cache would be a wrong number. What cannot be kept is logged, no error: a full
    or read-only disk costs the next call its time, not this one its numbers."""
    try:
        save_tensors(file, tensors, {"sha256": _digest(tensors)})
    except (OSError, SafetensorError) as error:
        logging.getLogger(__name__).warning("%s could not be kept (%s); the next call computes it again", file, error)


def _digest(tensors: dict[str, Tensor]) -> str:
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(f"{name} {tuple(tensors[name].shape)}".encode())
        h.update(tensors[name].contiguous().numpy().data)
    return h.hexdigest()
