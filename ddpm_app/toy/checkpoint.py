"""A toy model as a directory: config.json, weights.safetensors, README.md."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.description import FORMAT, CheckpointError
from ddpm_app.checkpoints.weights import read_model, save_model
from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, Denoiser
from ddpm_app.diffusion.names import rename_row
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.networks.mlp import ToyConfig, ToyMLP
from ddpm_app.toy.shapes import ToyData
from ddpm_app.toy.training import ToyTrainConfig


@dataclass(frozen=True)
class ToyModel:
    """A trained toy.

    path: its directory
    name: of the directory
    denoiser: in the network's coordinates, (x - center) / scale of points x in the data's units
    classes: their names, empty for an unconditional network
    center, scale: of the data
    data: the arguments of toy.points.load that gave the data
    training: the fields of ToyTrainConfig
    metrics: measured numbers, as toy.card.measure returns them"""

    path: Path
    name: str
    denoiser: Denoiser
    classes: tuple[str, ...]
    center: Tensor
    scale: float
    data: dict
    training: dict
    metrics: list

    def from_model(self, x: Tensor) -> Tensor:
        return (x.double() * self.scale + self.center).to(x.dtype)


def save_toy(path: Path | str, denoiser: Denoiser, data: ToyData, config: ToyTrainConfig, recipe: dict, metrics: list = ()) -> None:
    """Write config.json and weights.safetensors (float32). recipe: the arguments of toy.points.load that gave the data."""
    network = denoiser.network
    description = {
        "format": FORMAT,
        "kind": "toy",
        "network": dataclasses.asdict(network.config),
        "schedule": {"name": config.schedule, "T": config.T, **config.params},
        "prediction_type": config.prediction_type,
        "data": recipe,
        "classes": list(data.classes) if network.config.num_classes else [],
        "center": data.center.tolist(),
        "scale": data.scale,
        "training": dataclasses.asdict(config),
        "metrics": list(metrics),
    }
    save_model(path, "config.json", description, {k: v.float() for k, v in network.state_dict().items()})


def load_toy(path: Path | str, dtype: torch.dtype = torch.float32) -> ToyModel:
    """Read a toy from its directory. Raises CheckpointError that names what is wrong. Never opens a pickle."""
    path = Path(path)

    def build(raw: dict) -> tuple[ToyModel, ToyMLP]:
        if raw.get("kind") != "toy":
            raise CheckpointError(f"it is not a toy model (its kind is {raw.get('kind', 'image')!r})")
        raw = rename_row(raw)
        network, prediction_type = ToyMLP(ToyConfig(**raw["network"])), raw["prediction_type"]
        center, scale = torch.tensor(raw["center"], dtype=torch.float64), float(raw["scale"])
        if center.shape != (network.config.dim,) or not scale > 0 or prediction_type not in PREDICTION_TYPES:
            raise CheckpointError("its center, scale or prediction type does not fit its network")
        denoiser, classes = Denoiser(network, make_schedule(**raw["schedule"]), prediction_type), tuple(str(c) for c in raw["classes"])
        optional = rename_row(raw.get("training", {})), raw.get("metrics", [])
        return ToyModel(path, path.name, denoiser, classes, center, scale, raw["data"], *optional), network

    model, network = read_model(path, "config.json", "toy model", build)
    network.to(dtype).eval().requires_grad_(False)
    return model
