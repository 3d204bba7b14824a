"""Tensors on disk, each file with the SHA-256 of its tensors: a damaged cache would give a wrong number."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddpm_app.files import save_tensors


def load_cached(file: Path) -> dict[str, Tensor]:
    """The tensors of a cache file; {} if it is missing or damaged."""
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as f:
            digest = (f.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return {}
    return tensors if digest == _digest(tensors) else {}


def save_cached(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write the file that load_cached reads. A failure to write is logged and is no error: the numbers do not depend on the cache."""
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
