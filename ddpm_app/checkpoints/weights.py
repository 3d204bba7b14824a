"""The weights of a model directory: weights.safetensors, or its shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm_app.checkpoints.description import FORMAT, PICKLES, CheckpointError, Description, read_description
from ddpm_app.files import file_digest, save_tensors, write_atomically

SHARD_BYTES = 9_500_000  # Hugging Face Spaces accept files up to 10 MB without large-file storage


def save_sharded(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights.safetensors. Weights of more than SHARD_BYTES are split into shards with huggingface_hub's index.

    Other weights*.safetensors in the directory are removed."""
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


def read_model(
    path: Path | str, filename: str, kind: str, build: Callable[[dict], tuple[Description, nn.Module]], format: int | None = FORMAT
) -> tuple[Description, nn.Module]:
    """(description, network with its weights) of a model directory.

    filename: of the JSON file
    kind:     name of the described thing, for errors
    build:    makes (description, network) from the content of the JSON file
    format:   accepted value of its key "format", see read_description
    Raises CheckpointError, as read_description and load_weights do."""
    description, network = read_description(path, filename, kind, build, format)
    return description, load_weights(network, Path(path))


def save_model(path: Path | str, filename: str, description: dict, weights: dict[str, Tensor]) -> None:
    """Write a directory for read_model. The weights keep their types.

    The JSON file is written last: without it, an incomplete directory is not accepted as a model."""
    save_sharded(Path(path), weights)
    write_atomically(Path(path) / filename, json.dumps(description, indent=1))


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """Load the weights of a model directory into the network, and return it. The batch counters of norms are not stored and stay.

    Raises CheckpointError for damaged files, missing or additional keys, other shapes, and values that are not finite."""
    weights = {k: v for k, v in network.state_dict().items() if "num_batches" in k} | read_weights(path)
    check_weights(weights, network, path)
    network.load_state_dict(weights)
    return network


def half_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights to store of a network with batch norms: fp16, running statistics in float32, without batch counters."""
    return {k: v if "running" in k else v.half() for k, v in network.state_dict().items() if "num_batches" not in k}


def digest_of_weights(path: Path) -> str:
    """SHA-256 of the weights' files, one after another: it identifies a classifier or a CLIP in a protocol."""
    return file_digest(*sorted(path.glob("weights*.safetensors")))


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, converted to float32. Shards are found by huggingface_hub's index.

    Raises CheckpointError for missing or damaged files, and for an index with names of files outside the directory."""
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
    """Raise CheckpointError unless the weights have the names and shapes of the network and all values are finite.

    where: the beginning of the error, e.g. the path."""
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
