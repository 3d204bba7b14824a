"""What the scripts of this folder share: they find ddpm_app in a checkout, build flags from a settings class, end with an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Settings = TypeVar("Settings")


def parse(settings: type[Settings], description: str, argv: list[str] | None = None) -> Settings:
    """Read command-line flags into a settings dataclass of flags.py. Exits with a message for flags and values that are not accepted."""
    from ddpm_app.flags import Parser, add_flags, read_flags  # found by the path above

    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, settings)
    try:
        return settings(**read_flags(settings, parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


def run(main: Callable[[], int]) -> None:
    """Call main and exit with what it returns."""
    sys.exit(main())
