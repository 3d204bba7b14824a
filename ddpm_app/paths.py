"""Where data, runs, caches and shipped models lie. The only reader of $DDPM_DATA, $DDPM_RUNS and $DDPM_CACHE.

An empty variable counts as unset. Every function reads the environment again, so that a test can change it.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SHIPPED = PROJECT / "checkpoints"  # the models that come with the program
RECORDINGS = PROJECT / "ddpm_app" / "ui" / "recordings"  # runs that the page plays when it opens
HOME = Path.home() / ".cache" / "ddpm-studio"


def _variable(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value) if value else None


def runs_dir() -> Path:
    """Where training runs live: $DDPM_RUNS, else runs/ in the project."""
    return _variable("DDPM_RUNS") or PROJECT / "runs"


def model_roots() -> list[Path]:
    """Where checkpoints are looked for, in this order: the shipped ones, then the runs."""
    return [SHIPPED, runs_dir()]


def data_roots() -> list[Path]:
    """Where prepared .npz data sets are looked for: $DDPM_DATA, data/ of the project, ../shared/data beside it."""
    chosen = _variable("DDPM_DATA")
    return [*([chosen] if chosen else []), PROJECT / "data", PROJECT.parent / "shared" / "data"]


def download_dir() -> Path:
    """Where torchvision keeps the data sets it downloads: $DDPM_DATA, else ~/.cache/ddpm-studio."""
    return _variable("DDPM_DATA") or HOME


def cache_dir(part: str) -> Path:
    """The folder of files that can be made again: `part` in $DDPM_CACHE, else in ~/.cache/ddpm-studio.

    part: "hub" (fetched models) or "evaluation" (samples and features)."""
    return (_variable("DDPM_CACHE") or HOME) / part
