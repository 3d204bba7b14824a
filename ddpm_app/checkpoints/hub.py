"""Downloads models from the Hugging Face hub: checkpoints of this program, and diffusers models, which are converted.

diffusers models are read with safetensors and JSON. The library diffusers is not imported.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ddpm_app.checkpoints.checkpoint import CheckpointConfig, open_checkpoint, save
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.checkpoints.diffusers import PREDICTION_TYPES, SCHEDULE_NAMES, from_diffusers, unet_config
from ddpm_app.checkpoints.weights import check_weights, read_weights
from ddpm_app.files import read_text, write_atomically
from ddpm_app.networks.unet import UNet
from ddpm_app.paths import cache_dir

_WEIGHTS = "diffusion_pytorch_model.safetensors"


def fetch(repo_id: str) -> Path:
    """Download a model from the Hugging Face hub and return its directory, in our format, under paths.cache_dir("hub").

    repo_id: "owner/name" of a model of this program, or of a diffusers UNet2DModel (in the top folder or in unet/), which is converted
    Only JSON, Markdown and safetensors files are downloaded. Without a network, a model downloaded before is returned. Raises
    CheckpointError, one sentence."""
    repo_id = repo_id.strip().removeprefix("https://huggingface.co/").strip("/")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id) or ".." in repo_id:
        raise CheckpointError(f"{repo_id!r} is not a Hugging Face repo id; those look like owner/name")
    target = cache_dir("hub") / repo_id.replace("/", "--")
    try:
        source = _download(repo_id, ["config.json", "unet/config.json", "*scheduler_config.json"])
    except CheckpointError:
        if (target / "config.json").is_file():  # downloaded before
            return target
        raise
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        if "format" in _json(source / "config.json"):
            patterns = ["config.json", "weights*.safetensors", "weights.safetensors.index.json", "README.md", "log.jsonl"]
            source = _download(repo_id, patterns)
            for file in {file for pattern in patterns for file in source.glob(pattern)}:
                shutil.copyfile(file, made / file.name)
            checkpoint = open_checkpoint(made)
            with torch.device("meta"):
                check_weights(read_weights(made), UNet(checkpoint.config.network), repo_id)
        else:
            _import_diffusers(repo_id, source, made)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    except CheckpointError as error:
        raise CheckpointError(f"{repo_id}: {str(error).replace(f'{made}: ', '')}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _json(file: Path) -> dict:
    try:
        content = json.loads(read_text(file) or "{}")
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def reachable(url: str | None = None, seconds: float = 3.0) -> bool:
    """Whether the Hugging Face hub, or the address `url`, answers within `seconds`.

    True for the hub in offline mode: huggingface_hub then looks into its cache only.
    The request runs in a thread, because the look-up of a host name can take longer than any timeout covers."""
    from huggingface_hub import constants, get_session

    if url is None and constants.HF_HUB_OFFLINE:
        return True
    answered = threading.Event()

    def ask() -> None:
        try:
            if url is None:
                get_session().head(constants.ENDPOINT, timeout=seconds)
            else:
                urlopen(Request(url, method="HEAD"), timeout=seconds).close()
            answered.set()
        except Exception:  # every error of the clients means: no answer
            return

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def _download(repo_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if not reachable():
        raise CheckpointError(f"{repo_id} cannot be fetched: huggingface.co does not answer (no network?)")
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns, etag_timeout=5))
    except GatedRepoError as error:
        raise CheckpointError(f"{repo_id} can be downloaded only after a login and consent to its terms on huggingface.co") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no public model {repo_id} on huggingface.co") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"{repo_id} is not in the local cache and huggingface.co does not answer") from error
    except Exception as error:  # every other failure of the client, its connection or the disk
        raise CheckpointError(f"{repo_id} could not be downloaded: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _import_diffusers(repo_id: str, source: Path, made: Path) -> None:
    """Download the weights of the UNet2DModel whose configuration lies in `source`, convert them, and save them in the directory `made`."""
    folder = next((f for f in ("", "unet") if _json(source / f / "config.json").get("_class_name") == "UNet2DModel"), None)
    if folder is None:
        raise CheckpointError("it holds neither a model of this program nor a diffusers UNet2DModel")
    config = _json(source / folder / "config.json")
    unet_config(config, None)  # raises for a network that cannot be imported, before the large download
    names = ("scheduler/scheduler_config.json", "scheduler_config.json")
    noise = next((_json(source / name) for name in names if (source / name).is_file()), {})
    kind, row = str(noise.get("beta_schedule", "linear")), PREDICTION_TYPES.get(str(noise.get("prediction_type", "epsilon")))
    if kind not in SCHEDULE_NAMES or row is None or noise.get("trained_betas") or noise.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"its noise schedule ({kind}, predicting {noise.get('prediction_type')}) cannot be imported")
    betas = {key: noise[key] for key in ("beta_start", "beta_end") if key in noise and SCHEDULE_NAMES[kind] != "cosine"}
    schedule = {"name": SCHEDULE_NAMES[kind], "T": noise.get("num_train_timesteps", 1000), **betas}
    file = _download(repo_id, [f"{folder}/{_WEIGHTS}".lstrip("/")]) / folder / _WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"it has no {_WEIGHTS}; pickled .bin weights are refused because opening them can run code")
    try:
        network = from_diffusers(load_file(file), config)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"its {_WEIGHTS} is cut short or not safetensors ({error})") from error
    classes = tuple(str(k) for k in range(network.config.num_classes))
    converted = CheckpointConfig(network.config, schedule, row, data=repo_id, classes=classes, ema="as published")
    save(made, converted, network.state_dict(), torch.float32)
    open_checkpoint(made)  # checks the schedule's parameters, which come from outside
    write_atomically(made / "README.md", f"# {repo_id}\n\nA diffusers UNet2DModel, imported from https://huggingface.co/{repo_id}.\n")
