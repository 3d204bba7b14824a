"""The JSON description of a model directory. Loads no torch, so that a list of models needs none."""

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
    """build(what the JSON file `filename` of a model directory holds, without its format).

    kind: what it should describe, for the errors. format: the one accepted; None where the file states none.
    Raises CheckpointError, one sentence naming the path, for anything that cannot be read or that build refuses."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(f"{path} is a pickle, which can run code when opened; only safetensors directories are accepted")
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; a {kind} is one, with {filename} and weights.safetensors in it")
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
