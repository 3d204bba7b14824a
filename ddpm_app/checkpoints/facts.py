"""Facts about a model for lists and cards, as plain values. Loads neither weights nor torch."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.measurements import card_rows
from ddpm_app.networks.unet_config import UNetConfig


def parameters(checkpoint: Checkpoint) -> int:
    """The number of parameters, counted in the stored tensors. If those cannot be read, the network is built and counted."""
    try:
        files = sorted(checkpoint.path.glob("weights*.safetensors"))
        return sum(_stored_parameters(str(file), file.stat().st_mtime_ns) for file in files) or _built_parameters(checkpoint.config.network)
    except (OSError, SafetensorError, ValueError):
        return _built_parameters(checkpoint.config.network)


@lru_cache(maxsize=64)
def _stored_parameters(file: str, changed: int) -> int:
    with safe_open(file, "numpy") as tensors:  # reads the header only
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())


@lru_cache(maxsize=64)
def _built_parameters(config: UNetConfig) -> int:
    import torch

    from ddpm_app.networks.unet import UNet, parameter_count

    with torch.device("meta"):  # shapes only, no memory
        return parameter_count(UNet(config))


def model_facts(checkpoint: Checkpoint) -> dict:
    """The facts of a model card as plain values. "metrics_error" is the reason why metrics.json cannot be read, else ""."""
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
        "parameters": parameters(checkpoint),
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
