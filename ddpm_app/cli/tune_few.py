"""Tune a trained model to one, two or four evaluations per image, towards its own guided samples.

    python train/tune_few.py checkpoints/mnist --minutes 60 --out runs/mnist-fast
    python train/tune_few.py checkpoints/cifar10 --minutes 60 --tuned-for 2 --out runs/cifar10-fast

The run is one of train_unet.py, with its flags, its folder and its --resume. Its data, preset, prediction type and schedule are the
teacher's. The tuned model contains the teacher's guidance (--teacher-guidance): sampling
needs no second pass, and its scale cannot be changed. docs/training.md says how it works.
"""

from __future__ import annotations

import sys

from ddpm_app.cli import train
from ddpm_app.diffusion.names import rename_row
from ddpm_app.flags import settings_to_flags
from ddpm_app.training.config import RECIPES, TrainConfig

FROM_TEACHER = ("data", "preset", "prediction_type", "schedule", "T", "image_size")  # fields of TrainConfig


def flags_for(teacher: str) -> list[str]:
    """The flags of train_unet.py for tuning this model. Raises ValueError if there is no such model or if it is not a run's."""
    from ddpm_app.training.tuning import find_model  # imported here: --help needs no torch

    stored = rename_row(find_model(teacher).config.training)
    if missing := [name for name in ("data", "preset") if name not in stored]:
        raise ValueError(f"{teacher} does not say its {' and '.join(missing)}; a model that train_unet.py trained is accepted")
    settings = {**RECIPES["few"], **{name: stored[name] for name in FROM_TEACHER if name in stored}, "teacher": teacher}
    return settings_to_flags(TrainConfig, settings, tuple(settings))


def main(argv: list[str] | None = None) -> int:
    """The exit code of train_unet.py; 2 for a teacher that cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        parser = train.make_parser()
        parser.description, parser.usage = __doc__, "%(prog)s TEACHER --minutes MINUTES --out OUT [flags]"
        if argv in (["-h"], ["--help"]):
            parser.parse_args(argv)  # prints the help and exits
        parser.error("the first argument is the teacher: the directory or the name of a trained model")
    try:
        return train.main([*flags_for(argv[0]), *argv[1:]])
    except ValueError as error:
        print(f"tune_few: {error}", file=sys.stderr)
        return 2
