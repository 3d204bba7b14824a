"""Names that are stored in files: schedules with their parameters, and prediction types. Does not load torch, so that models list fast."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ddpm_app.flags import check_choice

PREDICTION_NAMES = ("eps", "v", "x0", "edm")
SCHEDULE_PARAMETERS = {  # the keyword arguments of each function in schedules.SCHEDULES
    "linear": ("beta_start", "beta_end"),
    "cosine": ("s", "max_beta"),
    "sigmoid": ("start", "end", "tau", "max_beta"),
    "scaled-linear": ("beta_start", "beta_end"),
    "quadratic": ("beta_start", "beta_end"),
}


def check_schedule(name: str, T: int, params: dict[str, float]) -> None:
    """Raise ValueError for an unknown schedule, a number of steps out of range, or a parameter it does not take."""
    check_choice("schedule", name, SCHEDULE_PARAMETERS)
    if not isinstance(T, int) or not 2 <= T <= 100_000:
        raise ValueError(f"T is {T!r}; a schedule has 2 to 100000 steps")
    accepted = SCHEDULE_PARAMETERS[name]
    for key, value in params.items():
        if key not in accepted:
            raise ValueError(f"schedule {name!r} has no parameter {key!r}; it takes {', '.join(accepted)}")
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}; it must be a finite number")
        if key in ("beta_start", "beta_end") and not 0 < value < 1:
            raise ValueError(f"{key} is {value}; betas lie strictly between 0 and 1")


def rename_row(settings: Mapping) -> dict:
    """Stored settings, with the key `row` of older files renamed to `prediction_type`."""
    return {"prediction_type" if key == "row" else key: value for key, value in settings.items()}
