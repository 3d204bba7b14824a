"""The presets Fast, Good and Exact: fields of a Request that trade time for quality.

docs/measuring.md has the numbers that they follow from. Good is also the default of every Request."""

from __future__ import annotations

from collections.abc import Collection

from ddpm_app.checkpoints.checkpoint import CheckpointConfig
from ddpm_app.flags import check_choice
from ddpm_app.studio.request import Request

GOOD = {"sampler": Request.sampler, "evaluations": Request.evaluations, "grid": Request.grid, "guidance": Request.guidance}
PRESETS = {"fast": {**GOOD, "evaluations": 4}, "good": GOOD, "exact": {**GOOD, "evaluations": 20}}
TUNED = "-fast"  # a model of this name beside another is the other one, tuned to few evaluations


def preset_fields(preset: str, name: str, config: CheckpointConfig, known: Collection[str]) -> dict:
    """Fields of a Request to the model `name` with this preset; the model's own defaults hold for the others.

    Fast takes the model tuned to few evaluations where there is one. A tuned model itself has one way to sample, whatever the preset.
    known: the names of all models. Raises ValueError for an unknown preset."""
    check_choice("preset", preset, PRESETS)
    if config.tuned_for:
        return {"checkpoint": name}
    if preset == "fast" and name + TUNED in known:
        return {"checkpoint": name + TUNED}
    return {"checkpoint": name, **PRESETS[preset]}
