"""A checkpoint: the directory of a U-Net. It holds config.json, the weights, log.jsonl and README.md (the model card).

Opening and listing checkpoints does not load torch; `Checkpoint.denoiser` and `save` do.
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
    """The content of config.json.

    network:         the U-Net
    schedule:        arguments of make_schedule: name, T and parameters
    prediction_type: one of PREDICTION_NAMES
    data:            name of the data set
    classes:         one name per label
    images_seen:     training images of the run so far
    training:        the whole TrainConfig as a dict
    ema:             which average of the weights is stored
    metrics:         measured numbers that older versions stored here; new ones go to metrics.json (measurements.py)
    tuned_for:       evaluations that a model tuned to few evaluations takes by default; 0 for other models
    guidance:        guidance scale that a tuned model contains: its predictions are the guided ones
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
    tuned_for: int = 0
    guidance: float = 1.0

    def to_dict(self) -> dict:
        """The content of config.json as a dict. Only tuned models have the fields of tuning, so that older versions read the others."""
        tuned = () if self.tuned_for else ("tuned_for", "guidance")
        return {"format": FORMAT, **{k: v for k, v in dataclasses.asdict(self).items() if k not in tuned}}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, raw: dict) -> CheckpointConfig:
        """The config from the content of config.json without its key "format". Raises ValueError, TypeError or KeyError for bad content."""
        raw = rename_row(raw)
        network, classes = UNetConfig(**raw["network"]), tuple(str(c) for c in raw.get("classes", ()))
        config = cls(**{**raw, "network": network, "classes": classes, "training": rename_row(raw.get("training", {}))})
        _check_levels(**config.schedule)
        check_choice("prediction type", config.prediction_type, PREDICTION_NAMES)
        if config.network.num_classes not in (0, len(config.classes)):
            raise CheckpointError(f"the network has {config.network.num_classes} classes but {len(config.classes)} are named")
        return config


def _check_levels(name: str, T: int = 1000, **params: float) -> None:
    """Raise ValueError for a schedule that make_schedule refuses. Loads torch only for unusual parameters or lengths."""
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
        """Load the weights and return the denoiser, ready to sample. dtype: None chooses pick_dtype(device). Raises CheckpointError."""
        import torch

        from ddpm_app.checkpoints.weights import load_weights
        from ddpm_app.diffusion.denoiser import Denoiser
        from ddpm_app.diffusion.schedules import make_schedule
        from ddpm_app.networks.device import for_inference
        from ddpm_app.networks.unet import UNet

        network = for_inference(load_weights(UNet(self.config.network), self.path), torch.device(device), dtype)
        return Denoiser(network, make_schedule(**self.config.schedule), self.config.prediction_type)

    def log(self) -> list[dict]:
        """The lines of the training log as dicts. Incomplete lines are left out."""
        rows = []
        for line in read_text(self.path / "log.jsonl").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def card(self) -> str:
        """The model card in Markdown, without its metadata; "" if there is none."""
        text = read_text(self.path / "README.md")
        return text.split("---\n", 2)[2] if text.startswith("---\n") and text.count("---\n") >= 2 else text


def save(path: Path | str, config: CheckpointConfig, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> Checkpoint:
    """Write config.json and the weights. dtype: of the stored weights (default: fp16)."""
    import torch

    from ddpm_app.checkpoints.weights import save_model

    path = Path(path)
    save_model(path, "config.json", config.to_dict(), {k: v.to(dtype or torch.float16) for k, v in weights.items()})
    return Checkpoint(path, config)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read the config of a checkpoint. Raises CheckpointError, one sentence. Never opens a pickle."""
    return Checkpoint(Path(path), read_description(path, "config.json", "model of this program", CheckpointConfig.from_dict))


def find(roots: list[Path], refused: dict[str, str] | None = None) -> dict[str, Checkpoint]:
    """All readable checkpoints directly in these directories, by name. If two have the same name, the one in the earlier root is used.

    refused: receives {name: error} of the directories that cannot be read."""
    by_name: dict[str, Checkpoint] = {}
    for root in roots:
        for config in sorted(root.glob("*/config.json")):
            try:
                by_name.setdefault(config.parent.name, open_checkpoint(config.parent))
            except CheckpointError as error:
                if refused is not None:
                    refused[config.parent.name] = str(error)
    return by_name
