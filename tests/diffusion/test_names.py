"""The torch-free names are those of the functions that they name."""

from __future__ import annotations

import inspect

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES
from ddpm_app.diffusion.names import PREDICTION_NAMES, SCHEDULE_PARAMETERS
from ddpm_app.diffusion.schedules import SCHEDULES


def test_every_schedule_takes_the_parameters_named():
    assert {name: tuple(inspect.signature(f).parameters)[1:] for name, f in SCHEDULES.items()} == SCHEDULE_PARAMETERS


def test_every_prediction_type_is_named():
    assert tuple(PREDICTION_TYPES) == PREDICTION_NAMES
