"""A toy model as a directory: config.json, weights.safetensors, README.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.diffusion.denoiser import ROWS, Denoiser
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.networks.mlp import ToyConfig, ToyMLP
from ddpm_app.toy.shapes import ToyData
from ddpm_app.toy.training import ToyTrainConfig


@dataclass(frozen=True)
class ToyModel:
    """A trained toy read back: the denoiser works in the network's coordinates, (x - center) / scale of the data's."""

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
    """config.json and weights.safetensors (float32). recipe: the arguments of toy_files.load that gave the data."""
    path, network = Path(path), denoiser.network
    weights = {k: v.float() for k, v in network.state_dict().items()}
    files.save_tensors(path / "weights.safetensors", weights, {"format": "pt"})
    content = {
        "format": checkpoint.FORMAT,
        "kind": "toy",
        "network": dataclasses.asdict(network.config),
        "schedule": {"name": config.schedule, "T": config.T, **config.params},
        "row": config.row,
        "data": recipe,
        "classes": list(data.classes) if network.config.num_classes else [],
        "center": data.center.tolist(),
        "scale": data.scale,
        "training": dataclasses.asdict(config),
        "metrics": list(metrics),
    }
    files.write_atomically(path / "config.json", json.dumps(content, indent=1))


def load_toy(path: Path | str, dtype: torch.dtype = torch.float32) -> ToyModel:
    """Rebuild a toy. Raises CheckpointError naming what is wrong; never opens a pickle."""
    path = Path(path)
    if path.suffix in checkpoint.PICKLES:
        raise checkpoint.CheckpointError(f"{path} is a pickle, which can run code when opened; only safetensors directories are accepted")
    if not (path / "config.json").is_file():
        raise checkpoint.CheckpointError(f"{path} is not a checkpoint: it has no config.json")
    try:
        raw = json.loads(files.read_text(path / "config.json"))
        if raw.get("kind") != "toy":
            raise checkpoint.CheckpointError(f"{path} is not a toy model (its kind is {raw.get('kind', 'image')!r})")
        network = ToyMLP(ToyConfig(**raw["network"]))
        schedule = make_schedule(**raw["schedule"])
        center, scale = torch.tensor(raw["center"], dtype=torch.float64), float(raw["scale"])
        if center.shape != (network.config.dim,) or not scale > 0 or raw["row"] not in ROWS:
            raise checkpoint.CheckpointError(f"{path}: its center, scale or row does not fit its network")
        classes = tuple(str(c) for c in raw["classes"])
    except checkpoint.CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise checkpoint.CheckpointError(f"{path}: config.json does not describe a toy model ({error})") from error
    weights = checkpoint.read_weights(path)
    checkpoint.check_keys(weights, network, path)
    network.load_state_dict(weights)
    denoiser = Denoiser(network.to(dtype).eval().requires_grad_(False), schedule, raw["row"])
    return ToyModel(path, path.name, denoiser, classes, center, scale, raw["data"], raw.get("training", {}), raw.get("metrics", []))


def find_toys(roots: Sequence[Path]) -> dict[str, ToyModel]:
    """Every readable toy right under the given directories, by name; earlier roots win."""
    found: dict[str, ToyModel] = {}
    for root in roots:
        for config in sorted(Path(root).glob("*/config.json")):
            try:
                found.setdefault(config.parent.name, load_toy(config.parent))
            except checkpoint.CheckpointError:
                continue
    return found
