"""The settings of a training run as flags of train_unet.py, there and back: the script, the Train form and the shown command agree."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Collection

from ddpm_app.training.config import TrainConfig, default_of

ALWAYS = ("data", "preset", "row", "schedule")  # written even at their defaults: they say what the run is
_KINDS = {"int": int, "float": float, "str": str}
_FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}


class _Refusing(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


def flag(name: str) -> str:
    """label_dropout is --label-dropout."""
    return "--" + name.replace("_", "-")


def add_settings(parser: argparse.ArgumentParser, names: Collection[str] = tuple(_FIELDS)) -> None:
    """A flag for each of these fields of TrainConfig, None where it is not given."""
    for name in names:
        f = _FIELDS[name]
        choices, text = f.metadata.get("choices"), f"{f.metadata['help']} (default {f.default})"
        parser.add_argument(flag(name), type=_KINDS[f.type], default=None, choices=choices, help=text)


def read(text: str, names: Collection[str]) -> dict:
    """{field: value} of flags as a person types them, "--T 200 --flip no". Raises ValueError for any flag but these fields'."""
    parser = _Refusing(add_help=False, allow_abbrev=False)
    add_settings(parser, names)
    try:
        found = vars(parser.parse_args(shlex.split(text)))
    except ValueError as error:
        raise ValueError(f"{error}; {', '.join(map(flag, names))} are accepted, each with a value") from None
    return {name: value for name, value in found.items() if value is not None}


def write(settings: dict, names: Collection[str] = tuple(_FIELDS), always: Collection[str] = ()) -> list[str]:
    """The arguments that read() takes for the same settings; those at their defaults are left out, but for `always`."""
    argv = []
    for name in names:
        default = default_of(name, settings.get("preset", TrainConfig.preset))
        value = settings.get(name, default)
        if name in always or value != default:
            argv += [flag(name), f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)]
    return argv
