"""A checkpoint is a directory: config.json + weights.safetensors (or its shards) + log.jsonl + README.md, the card.

Nothing is pickled: weights are safetensors, everything else JSON. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddpm_app.diffusion.denoiser import ROWS, Denoiser
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.files import read_text, save_tensors, write_atomically
from ddpm_app.networks.device import for_inference
from ddpm_app.networks.unet import UNet, UNetConfig

FORMAT = 1
SHARD_BYTES = 9_500_000  # below what a Space takes without large-file storage
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


class CheckpointError(ValueError):
    """One sentence about what is wrong with a checkpoint."""


@dataclass(frozen=True)
class CheckpointConfig:
    """network: the U-Net. schedule: name, T and parameters. row: prediction type. data: name of the data set. classes: one name
    a label. images_seen: by the end of training. training: the whole TrainConfig as a dict. ema: which average the weights are.
    metrics: measured numbers, each with its protocol."""

    network: UNetConfig
    schedule: dict
    row: str
    data: str
    classes: tuple[str, ...] = ()
    images_seen: int = 0
    training: dict = field(default_factory=dict)
    ema: str = ""
    metrics: list = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CheckpointConfig:
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise CheckpointError("its format is newer than this program")
            raw["network"] = UNetConfig(**raw["network"])
            raw["classes"] = tuple(str(c) for c in raw.get("classes", ()))
            config = cls(**raw)
            make_schedule(**config.schedule)
            if config.row not in ROWS:
                raise CheckpointError(f"prediction row {config.row!r} is unknown; known: {', '.join(ROWS)}")
            if config.network.num_classes not in (0, len(config.classes)):
                raise CheckpointError(f"the network has {config.network.num_classes} classes but {len(config.classes)} are named")
            return config
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"config.json does not describe a model of this program ({error})") from error


@dataclass(frozen=True)
class Checkpoint:
    """Where it lies and what it is; the weights are read by `denoiser`."""

    path: Path
    config: CheckpointConfig

    @property
    def name(self) -> str:
        return self.path.name

    def denoiser(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
        """Rebuild the network, ready to sample. Raises CheckpointError for truncated weights, missing or surplus keys."""
        network = UNet(self.config.network)
        weights = read_weights(self.path)
        check_keys(weights, network, self.path)
        bad = [name for name, value in weights.items() if not value.isfinite().all()]
        if bad:
            raise CheckpointError(f"{self.path}: {len(bad)} tensors hold infinities or NaN, first {bad[0]}")
        network.load_state_dict(weights)
        return Denoiser(for_inference(network, torch.device(device), dtype), make_schedule(**self.config.schedule), self.config.row)

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
    save_sharded(path, {k: v.detach().to("cpu", dtype) for k, v in weights.items()})
    write_atomically(path / "config.json", config.to_json())
    return Checkpoint(path, config)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint's config. Raises CheckpointError naming what is wrong; never opens a pickle."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(f"{path} is a pickle, which can run code when opened; only safetensors directories are accepted")
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; a checkpoint is one, with config.json and weights.safetensors in it")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json")
    try:
        return Checkpoint(path, CheckpointConfig.from_json(read_text(path / "config.json")))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, float32. Shards follow huggingface_hub's index; a name may not leave the directory."""
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


def check_keys(weights: dict[str, Tensor], network: torch.nn.Module, where: object) -> None:
    """Compare names and shapes with what the network holds."""
    want = network.state_dict()
    missing, surplus = sorted(want.keys() - weights.keys()), sorted(weights.keys() - want.keys())
    wrong = [k for k in want.keys() & weights.keys() if want[k].shape != weights[k].shape]
    for kind, names in (("missing", missing), ("surplus", surplus), ("misshapen", wrong)):
        if names:
            raise CheckpointError(f"{where}: {len(names)} {kind} keys in the weights, first {names[0]}")


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
