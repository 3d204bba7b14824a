"""What the scripts of this folder share: they find ddpm_app in a checkout, build flags from a settings class, end with an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Settings = TypeVar("Settings")
TYPES = {"int": int, "float": float, "str": str}


def parse(settings: type[Settings], description: str, argv: list[str] | None = None) -> Settings:
    """Read command-line flags into a frozen dataclass: one flag a field, with the field's default, help and choices.

    Exits with an error message for wrong flags and for values that the dataclass refuses with a ValueError."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in dataclasses.fields(settings):
        flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        if f.type == "bool":
            parser.add_argument(flag, action="store_true", help=text)
        else:
            text += "" if f.default in (None, "", 0) else f" (default {f.default})"
            kind = TYPES[f.type.removesuffix(" | None")]
            parser.add_argument(flag, type=kind, default=f.default, choices=f.metadata.get("choices"), help=text)
    try:
        return settings(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


def run(main: Callable[[], int]) -> None:
    """Call main and exit with what it returns."""
    sys.exit(main())
