"""Lets the scripts of this folder import ddpm_app from a checkout where it is not installed, and ends them with main's exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def run(main: Callable[[], int]) -> None:
    """Call main and exit with what it returns."""
    sys.exit(main())
