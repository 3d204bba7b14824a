"""What a list of models says of a checkpoint, as plain values. Loads no weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.measurements import card_rows
from ddpm_app.networks.unet import UNet, UNetConfig, parameter_count


@lru_cache(maxsize=64)
def _parameters(config: UNetConfig) -> int:
    with torch.device("meta"):  # shapes only, no memory
        return parameter_count(UNet(config))


def model_facts(checkpoint: Checkpoint) -> dict:
    """What a model card says, as plain values. metrics_error: why metrics.json could not be read, else ""."""
    c, metrics_error = checkpoint.config, ""
    try:
        metrics = card_rows(checkpoint)
    except ValueError as error:
        metrics, metrics_error = c.metrics, str(error)
    return {
        "name": checkpoint.name,
        "place": _short(checkpoint.path),  # not "path": gradio_client would try to download it
        "data": c.data,
        "classes": list(c.classes),
        "image": f"{c.network.image_size}x{c.network.image_size}x{c.network.in_channels}",
        "row": c.prediction_type,
        "schedule": c.schedule["name"],
        "T": c.schedule.get("T", 1000),
        "channels": c.network.channels,
        "multipliers": list(c.network.multipliers),
        "blocks": c.network.blocks,
        "parameters": _parameters(c.network),
        "images_seen": c.images_seen,
        "ema": c.ema,
        "metrics": metrics,
        "metrics_error": metrics_error,
    }


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
