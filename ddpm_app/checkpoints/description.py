"""The JSON description of a model directory. Does not load torch, so that models list fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ddpm_app.files import read_text

FORMAT = 1


PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


Description = TypeVar("Description")


class CheckpointError(ValueError):
    """One sentence about what is wrong with a checkpoint."""


def read_description(
    path: Path | str, filename: str, kind: str, build: Callable[[dict], Description], format: int | None = FORMAT
) -> Description:
    """Read the JSON file of a model directory and return build(content), with the key "format" removed from the content.

    filename: of the JSON file
    kind:     name of the described thing, for errors, e.g. "classifier"
    format:   the accepted value of "format"; None if the file has no such key
    Raises CheckpointError, one sentence with the path, if the file cannot be read or build refuses its content. Never opens a pickle."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(f"{path} is a pickle, which can run code when opened; only safetensors directories are accepted")
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; a directory with {filename} and weights.safetensors is accepted as a {kind}")
    if not (path / filename).is_file():
        raise CheckpointError(f"{path} is not a {kind}: it has no {filename}")
    try:
        raw = json.loads(read_text(path / filename))
        if format is not None and raw.pop("format") != format:
            raise CheckpointError("its format is newer than this program")
        return build(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{path}: {filename} does not describe a {kind} ({error})") from error
