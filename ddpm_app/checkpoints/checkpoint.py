"""A checkpoint: the directory of a U-Net, with config.json, the weights, log.jsonl and README.md, its card.

Opening and listing checkpoints loads no torch; `Checkpoint.denoiser` and `save` do.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_app.checkpoints.description import FORMAT, CheckpointError, read_description
from ddpm_app.diffusion.names import PREDICTION_NAMES, check_schedule, rename_row
from ddpm_app.files import read_text
from ddpm_app.flags import check_choice
from ddpm_app.networks.unet_config import UNetConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddpm_app.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says of a model.

    network:     the U-Net
    schedule:    name, T and parameters, as make_schedule takes them
    prediction_type: one of PREDICTION_NAMES
    data:        name of the data set
    classes:     one name a label
    images_seen: by the end of training
    training:    the whole TrainConfig as a dict
    ema:         which average the weights are
    metrics:     measured numbers, each with its protocol
    """

    network: UNetConfig
    schedule: dict
    prediction_type: str
    data: str
    classes: tuple[str, ...] = ()
    images_seen: int = 0
    training: dict = field(default_factory=dict)
    ema: str = ""
    metrics: list = field(default_factory=list)

    def to_dict(self) -> dict:
        """What config.json holds."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, raw: dict) -> CheckpointConfig:
        """The config that config.json holds, without its format. Raises CheckpointError, or what a wrong type or key raises."""
        raw = rename_row(raw)
        network, classes = UNetConfig(**raw["network"]), tuple(str(c) for c in raw.get("classes", ()))
        config = cls(**{**raw, "network": network, "classes": classes, "training": rename_row(raw.get("training", {}))})
        _check_levels(**config.schedule)
        check_choice("prediction type", config.prediction_type, PREDICTION_NAMES)
        if config.network.num_classes not in (0, len(config.classes)):
            raise CheckpointError(f"the network has {config.network.num_classes} classes but {len(config.classes)} are named")
        return config


def _check_levels(name: str, T: int = 1000, **params: float) -> None:
    """Raise ValueError for a schedule that make_schedule refuses. With default parameters and usual lengths that needs no torch."""
    check_schedule(name, T, params)
    if params or T > 10_000:
        from ddpm_app.diffusion.schedules import make_schedule

        make_schedule(name, T, **params)


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: its path and its config. `denoiser` reads the weights."""

    path: Path
    config: CheckpointConfig

    @property
    def name(self) -> str:
        return self.path.name

    def denoiser(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
        """Rebuild the network, ready to sample. Raises CheckpointError as load_weights does."""
        import torch

        from ddpm_app.checkpoints.weights import load_weights
        from ddpm_app.diffusion.denoiser import Denoiser
        from ddpm_app.diffusion.schedules import make_schedule
        from ddpm_app.networks.device import for_inference
        from ddpm_app.networks.unet import UNet

        network = for_inference(load_weights(UNet(self.config.network), self.path), torch.device(device), dtype)
        return Denoiser(network, make_schedule(**self.config.schedule), self.config.prediction_type)

    def log(self) -> list[dict]:
        """The training log, a dict a line; lines cut short are left out."""
        rows = []
        for line in read_text(self.path / "log.jsonl").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def card(self) -> str:
        """The model card (Markdown), empty where there is none."""
        text = read_text(self.path / "README.md")
        return text.split("---\n", 2)[2] if text.startswith("---\n") and text.count("---\n") >= 2 else text


def save(path: Path | str, config: CheckpointConfig, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> Checkpoint:
    """Write config.json and the weights, in fp16 unless dtype says otherwise."""
    import torch

    from ddpm_app.checkpoints.weights import save_model

    path = Path(path)
    save_model(path, "config.json", config.to_dict(), {k: v.to(dtype or torch.float16) for k, v in weights.items()})
    return Checkpoint(path, config)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint's config. Raises CheckpointError naming what is wrong; never opens a pickle."""
    return Checkpoint(Path(path), read_description(path, "config.json", "model of this program", CheckpointConfig.from_dict))


def find(roots: list[Path], refused: dict[str, str] | None = None) -> dict[str, Checkpoint]:
    """Every readable checkpoint right under the given directories, by name; earlier roots win. refused collects why others are not."""
    by_name: dict[str, Checkpoint] = {}
    for root in roots:
        for config in sorted(root.glob("*/config.json")):
            try:
                by_name.setdefault(config.parent.name, open_checkpoint(config.parent))
            except CheckpointError as error:
                if refused is not None:
                    refused[config.parent.name] = str(error)
    return by_name
