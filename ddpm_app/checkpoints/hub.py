"""Models of others: diffusers' UNet2DModel of the `ddpm` layout in and out, and checkpoints fetched from the Hugging Face hub.

diffusers itself is imported only to build one of its networks; its files are read with safetensors and JSON alone.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm_app.checkpoints.checkpoint import CheckpointConfig, CheckpointError, check_keys, open_checkpoint, read_weights, save
from ddpm_app.files import read_text, write_atomically
from ddpm_app.networks.unet import UNet, UNetConfig
from ddpm_app.paths import cache_dir

# fmt: off
_NAMES = (  # our parameters' names -> diffusers'
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.attention\.(\d+)\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^mid\.0\.", "mid_block.resnets.0."), (r"^mid\.1\.", "mid_block.attentions.0."), (r"^mid\.2\.", "mid_block.resnets.1."),
    (r"^time_mlp\.0\.", "time_embedding.linear_1."), (r"^time_mlp\.2\.", "time_embedding.linear_2."),
    (r"^label_emb\.", "class_embedding."), (r"^norm_out\.", "conv_norm_out."), (r"\.norm\.", ".group_norm."),
    (r"\.emb_proj\.", ".time_emb_proj."), (r"\.skip\.", ".conv_shortcut."), (r"\.out\.", ".to_out.0."),
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # files older than diffusers 0.15
_FIXED = {  # what our network is in UNet2DModel's words ...
    "center_input_sample": False, "time_embedding_type": "positional", "freq_shift": 1, "flip_sin_to_cos": False, "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "downsample_padding": 0, "downsample_type": "conv",
    "upsample_type": "conv", "attn_norm_num_groups": None, "norm_eps": 1e-6, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "time_embedding_dim": None,
}
_SILENT = {**_FIXED, "freq_shift": 0, "flip_sin_to_cos": True, "downsample_padding": 1, "norm_eps": 1e-5}  # ... and its defaults
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
_ROWS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_WEIGHTS = "diffusion_pytorch_model.safetensors"
# fmt: on


def _their_names(key: str) -> list[str]:
    """diffusers' names of one of our parameters: three for the fused query, key and value, else one."""
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    return [key.replace(".qkv.", f".to_{x}.") for x in "qkv"] if ".qkv." in key else [key]


def _groups(network: nn.Module) -> set[int]:
    return {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}


def _unet_config(config: Mapping, image_size: int | None) -> UNetConfig:
    for key, value in _FIXED.items():
        if config.get(key, _SILENT[key]) != value:
            raise CheckpointError(f"its {key} is {config.get(key, _SILENT[key])!r}; only {value!r} can be imported")
    try:
        widths, down, up = list(config["block_out_channels"]), list(config["down_block_types"]), list(config["up_block_types"])
        if up != [name.replace("Down", "Up") for name in reversed(down)] or set(down) - {"DownBlock2D", "AttnDownBlock2D"}:
            raise CheckpointError(f"its blocks are {down} and {up}; (Attn)DownBlock2D mirrored by (Attn)UpBlock2D can be imported")
        if any(w % widths[0] for w in widths) or config.get("in_channels", 3) != config.get("out_channels", 3):
            raise CheckpointError("only as many channels out as in, and widths that are multiples of the first, can be imported")
        head, size = config.get("attention_head_dim", 8) or 0, config.get("sample_size") or image_size or 32
        if head and any(w % head for w, name in zip(widths, [*down[:-1], "AttnDownBlock2D"]) if "Attn" in name):
            raise CheckpointError(f"its attention_head_dim {head} does not divide its widths {widths}")
        result = UNetConfig(
            image_size=size,
            in_channels=config.get("in_channels", 3),
            channels=widths[0],
            multipliers=tuple(w // widths[0] for w in widths),
            blocks=config.get("layers_per_block", 2),
            attention=tuple(size >> k for k, name in enumerate(down) if "Attn" in name),
            head_dim=head,
            dropout=config.get("dropout", 0.0),
            num_classes=(config.get("num_class_embeds") or 1) - 1,
        )
        with torch.device("meta"):
            groups = _groups(UNet(result))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(f"its configuration is not one of a UNet2DModel that can be imported ({error!r})") from error
    if groups != {config.get("norm_num_groups", 32)}:
        raise CheckpointError(f"its norm_num_groups is {config.get('norm_num_groups', 32)}; here these widths have {sorted(groups)}")
    return result


def from_diffusers(unet: nn.Module | Mapping[str, Tensor], config: Mapping | None = None, image_size: int | None = None) -> UNet:
    """Our network with the weights of a diffusers UNet2DModel, or of its state dict and configuration; float32, evaluation mode.

    image_size: side in pixels where the configuration has no sample_size. A class embedding's last row is read as the null
    class. Raises CheckpointError naming the setting, or the weights, that our network does not have."""
    if isinstance(unet, nn.Module):
        config, unet = config or unet.config, unet.state_dict()
    if config is None:
        raise CheckpointError("a state dict says too little by itself: give the UNet2DModel's configuration with it")
    theirs = {re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{_OLD_ATTENTION[m[1]]}.", k): v for k, v in unet.items()}
    network, weights = UNet(_unet_config(config, image_size)), {}
    for key in network.state_dict():
        parts = [theirs.pop(name, None) for name in _their_names(key)]
        if all(part is not None for part in parts):
            weights[key] = torch.cat([part.float() for part in parts]) if len(parts) > 1 else parts[0].float()
    check_keys({**weights, **theirs}, network, "diffusers' network")
    network.load_state_dict(weights)
    return network.eval()


def to_diffusers(network: UNet) -> nn.Module:
    """A diffusers UNet2DModel with our network's weights (float32, evaluation mode); its last class label is the null class.

    Raises CheckpointError where diffusers cannot represent it, naming what differs."""
    c, groups = network.config, _groups(network)
    widths, attend = [c.channels * m for m in c.multipliers], [size in c.attention for size in c.resolutions]
    if len(groups) > 1:
        raise CheckpointError(f"diffusers takes one number of groups for all normalisations; this network has {sorted(groups)}")
    if c.image_size % 2 ** (len(widths) - 1):
        raise CheckpointError(f"diffusers cannot halve {c.image_size} pixels {len(widths) - 1} times without a remainder")
    if c.head_dim and any(w % c.head_dim for w, a in zip(widths, [*attend[:-1], True]) if a):
        raise CheckpointError(f"diffusers needs heads of exactly {c.head_dim} channels, which do not divide the widths {widths}")
    from diffusers import UNet2DModel

    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend)
    unet = UNet2DModel(
        sample_size=c.image_size,
        in_channels=c.in_channels,
        out_channels=c.in_channels,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        block_out_channels=tuple(widths),
        layers_per_block=c.blocks,
        dropout=c.dropout,
        attention_head_dim=c.head_dim or None,
        norm_num_groups=groups.pop(),
        num_class_embeds=c.num_classes + 1 if c.num_classes else None,
        **_FIXED,
    )
    parts = [(_their_names(key), value.detach().float()) for key, value in network.state_dict().items()]
    unet.load_state_dict({name: part for names, value in parts for name, part in zip(names, value.chunk(len(names)))})
    return unet.eval()


def fetch(repo_id: str) -> Path:
    """Download a model from the Hugging Face hub and return its directory, in our format, under paths.cache_dir("hub").

    repo_id: "owner/name", ours or a diffusers repository with a UNet2DModel (at its top or in unet/), whose weights are
    converted. Only JSON, Markdown and safetensors are ever downloaded. Raises CheckpointError with one sentence."""
    repo_id = repo_id.strip().removeprefix("https://huggingface.co/").strip("/")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id) or ".." in repo_id:
        raise CheckpointError(f"{repo_id!r} is not a Hugging Face repo id; those look like owner/name")
    target = cache_dir("hub") / repo_id.replace("/", "--")
    try:
        source = _download(repo_id, ["config.json", "unet/config.json", "*scheduler_config.json"])
    except CheckpointError:
        if (target / "config.json").is_file():  # fetched before: no network needed
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
                check_keys(read_weights(made), UNet(checkpoint.config.network), repo_id)
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
    """Whether the hub, or another address, answers at all.

    In a thread, because looking its name up can take longer than any timeout covers."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:  # asked to stay offline: what lies in huggingface_hub's cache may still do
        return True
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(url or constants.ENDPOINT, timeout=seconds)
            answered.set()
        except Exception:  # whatever the client in use raises means the same: no answer
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
        raise CheckpointError(f"{repo_id} asks its visitors to log in and agree to terms first") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no public model {repo_id} on huggingface.co") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"{repo_id} is not in the local cache and huggingface.co does not answer") from error
    except Exception as error:  # every other failure of the client, its connection or the disk
        raise CheckpointError(f"{repo_id} could not be downloaded: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _import_diffusers(repo_id: str, source: Path, made: Path) -> None:
    """Convert the UNet2DModel described in source, whose weights are yet to be downloaded, into the directory made."""
    folder = next((f for f in ("", "unet") if _json(source / f / "config.json").get("_class_name") == "UNet2DModel"), None)
    if folder is None:
        raise CheckpointError("it holds neither a model of this program nor a diffusers UNet2DModel")
    config = _json(source / folder / "config.json")
    _unet_config(config, None)  # before a large download for nothing
    names = ("scheduler/scheduler_config.json", "scheduler_config.json")
    noise = next((_json(source / name) for name in names if (source / name).is_file()), {})
    kind, row = str(noise.get("beta_schedule", "linear")), _ROWS.get(str(noise.get("prediction_type", "epsilon")))
    if kind not in _SCHEDULES or row is None or noise.get("trained_betas") or noise.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"its noise schedule ({kind}, predicting {noise.get('prediction_type')}) cannot be imported")
    betas = {key: noise[key] for key in ("beta_start", "beta_end") if key in noise and _SCHEDULES[kind] != "cosine"}
    schedule = {"name": _SCHEDULES[kind], "T": noise.get("num_train_timesteps", 1000), **betas}
    file = _download(repo_id, [f"{folder}/{_WEIGHTS}".lstrip("/")]) / folder / _WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"it has no {_WEIGHTS}; pickled .bin weights are refused because opening them can run code")
    try:
        network = from_diffusers(load_file(file), config)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"its {_WEIGHTS} is cut short or not safetensors ({error})") from error
    classes = tuple(str(k) for k in range(network.config.num_classes))
    made_config = CheckpointConfig(network.config, schedule, row, data=repo_id, classes=classes, ema="as published")
    CheckpointConfig.from_json(made_config.to_json())  # its schedule's parameters come from outside: the usual checks
    save(made, made_config, network.state_dict(), torch.float32)
    write_atomically(made / "README.md", f"# {repo_id}\n\nA diffusers UNet2DModel, imported from https://huggingface.co/{repo_id}.\n")
