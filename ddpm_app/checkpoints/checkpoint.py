"""A model as a directory: a JSON description and weights.safetensors (or its shards). A checkpoint adds log.jsonl and README.md, its card.

`read_model` and `save_model` read and write the directories of every kind of model: U-Net, toy, classifier, CLIP. Weights are
safetensors, everything else is JSON; pickles are refused. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, Denoiser
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.files import file_digest, read_text, save_tensors, write_atomically
from ddpm_app.networks.device import for_inference
from ddpm_app.networks.unet import UNet, UNetConfig

FORMAT = 1
SHARD_BYTES = 9_500_000  # below what a Space takes without large-file storage
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
Description = TypeVar("Description")


class CheckpointError(ValueError):
    """One sentence about what is wrong with a checkpoint."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says of a model.

    network:     the U-Net
    schedule:    name, T and parameters, as make_schedule takes them
    prediction_type: one of PREDICTION_TYPES
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
        raw = {"prediction_type" if key == "row" else key: value for key, value in raw.items()}  # the key of older files
        network, classes = UNetConfig(**raw["network"]), tuple(str(c) for c in raw.get("classes", ()))
        config = cls(**{**raw, "network": network, "classes": classes})
        make_schedule(**config.schedule)
        if config.prediction_type not in PREDICTION_TYPES:
            raise CheckpointError(f"prediction type {config.prediction_type!r} is unknown; known: {', '.join(PREDICTION_TYPES)}")
        if config.network.num_classes not in (0, len(config.classes)):
            raise CheckpointError(f"the network has {config.network.num_classes} classes but {len(config.classes)} are named")
        return config


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
        network = load_weights(UNet(self.config.network), self.path)
        return Denoiser(
            for_inference(network, torch.device(device), dtype), make_schedule(**self.config.schedule), self.config.prediction_type
        )

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


def save_sharded(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights.safetensors, or huggingface_hub's shards and their index where they are over 9.5 MB; others there go."""
    from huggingface_hub import split_torch_state_dict_into_shards

    path.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    plan = split_torch_state_dict_into_shards(weights, filename_pattern="weights{suffix}.safetensors", max_shard_size=SHARD_BYTES)
    for filename, names in plan.filename_to_tensors.items():
        save_tensors(path / filename, {k: weights[k] for k in names}, {"format": "pt"})
    index = path / "weights.safetensors.index.json"
    if plan.is_sharded:
        write_atomically(index, json.dumps({"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}, indent=1))
    else:
        index.unlink(missing_ok=True)
    for stale in set(path.glob("weights*.safetensors")) - {path / f for f in plan.filename_to_tensors}:
        stale.unlink()


def save(path: Path | str, config: CheckpointConfig, weights: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> Checkpoint:
    """Write config.json and the weights (fp16 unless told otherwise)."""
    path = Path(path)
    save_model(path, "config.json", config.to_dict(), {k: v.to(dtype) for k, v in weights.items()})
    return Checkpoint(path, config)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint's config. Raises CheckpointError naming what is wrong; never opens a pickle."""
    return Checkpoint(Path(path), read_description(path, "config.json", "model of this program", CheckpointConfig.from_dict))


def read_description(
    path: Path | str, filename: str, kind: str, build: Callable[[dict], Description], format: int | None = FORMAT
) -> Description:
    """build(what the JSON file `filename` of a model directory holds, without its format).

    kind: what it should describe, for the errors. format: the one accepted; None where the file states none.
    Raises CheckpointError, one sentence naming the path, for anything that cannot be read or that build refuses."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(f"{path} is a pickle, which can run code when opened; only safetensors directories are accepted")
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; a {kind} is one, with {filename} and weights.safetensors in it")
    if not (path / filename).is_file():
        raise CheckpointError(f"{path} is not a {kind}: it has no {filename}")
    try:
        raw = json.loads(read_text(path / filename))
        if format is not None and raw.pop("format") != format:
            raise CheckpointError("its format is newer than this program")
        return build(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{path}: {filename} does not describe a {kind} ({error})") from error


def read_model(
    path: Path | str, filename: str, kind: str, build: Callable[[dict], tuple[Description, nn.Module]], format: int | None = FORMAT
) -> tuple[Description, nn.Module]:
    """(description, network with its weights) of a model directory; build makes both from the JSON file `filename`.

    Raises CheckpointError as read_description and load_weights do."""
    description, network = read_description(path, filename, kind, build, format)
    return description, load_weights(network, Path(path))


def save_model(path: Path | str, filename: str, description: dict, weights: dict[str, Tensor]) -> None:
    """Write what read_model reads: the weights as they are, then the JSON file, so that a directory cut short is none."""
    save_sharded(Path(path), weights)
    write_atomically(Path(path) / filename, json.dumps(description, indent=1))


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """The network with the weights of a model directory; batch counters, which only training uses, are not stored.

    Raises CheckpointError for weights cut short, keys missing or too many, other shapes, and values that are not finite."""
    weights = {k: v for k, v in network.state_dict().items() if "num_batches" in k} | read_weights(path)
    check_weights(weights, network, path)
    network.load_state_dict(weights)
    return network


def half_weights(network: nn.Module) -> dict[str, Tensor]:
    """What is stored of a network with batch norms: fp16, their running statistics float32, no batch counters."""
    return {k: v if "running" in k else v.half() for k, v in network.state_dict().items() if "num_batches" not in k}


def digest_of_weights(path: Path) -> str:
    """SHA-256 of the weights' files, one after another: it identifies a classifier or a CLIP in a protocol."""
    return file_digest(*sorted(path.glob("weights*.safetensors")))


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, float32. Shards follow huggingface_hub's index; a name may not leave the directory."""
    index, single = path / "weights.safetensors.index.json", path / "weights.safetensors"
    try:
        if index.is_file():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if any(Path(f).name != f or not f.endswith(".safetensors") for f in files):
                raise CheckpointError(f"{index}: a shard's name must be a .safetensors file beside it")
        elif single.is_file():
            files = [single.name]
        else:
            pickles = [f.name for f in path.iterdir() if f.suffix in PICKLES]
            note = f"; {pickles[0]} is a pickle and is not opened" if pickles else ""
            raise CheckpointError(f"{path} has no weights.safetensors{note}")
        weights: dict[str, Tensor] = {}
        for file in files:
            weights.update(load_file(path / file))
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the weights are cut short or not safetensors ({error})") from error
    return {k: v.float() for k, v in weights.items()}


def check_weights(weights: dict[str, Tensor], network: nn.Module, where: object) -> None:
    """Raise CheckpointError unless names and shapes are the network's and all values are finite. where: begins the error."""
    expected = network.state_dict()
    wrong = {
        "missing keys in the weights": sorted(expected.keys() - weights.keys()),
        "surplus keys in the weights": sorted(weights.keys() - expected.keys()),
        "misshapen tensors in the weights": [k for k, v in weights.items() if k in expected and v.shape != expected[k].shape],
        "tensors hold infinities or NaN": [k for k, v in weights.items() if not v.isfinite().all()],
    }
    for what, names in wrong.items():
        if names:
            raise CheckpointError(f"{where}: {len(names)} {what}, first {names[0]}")


def find(roots: list[Path], refused: dict[str, str] | None = None) -> dict[str, Checkpoint]:
    """Every readable checkpoint right under the given directories, by name; earlier roots win. refused collects why others are not."""
    found: dict[str, Checkpoint] = {}
    for root in roots:
        for config in sorted(root.glob("*/config.json")):
            try:
                found.setdefault(config.parent.name, open_checkpoint(config.parent))
            except CheckpointError as error:
                if refused is not None:
                    refused[config.parent.name] = str(error)
    return found
