"""Conversion from and to diffusers' UNet2DModel with the layers of DDPM. diffusers is imported only to build its network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.checkpoints.weights import check_weights
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig

# fmt: off
PARAMETER_NAMES = (  # our parameters' names -> diffusers'
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.attention\.(\d+)\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^mid\.0\.", "mid_block.resnets.0."), (r"^mid\.1\.", "mid_block.attentions.0."), (r"^mid\.2\.", "mid_block.resnets.1."),
    (r"^time_mlp\.0\.", "time_embedding.linear_1."), (r"^time_mlp\.2\.", "time_embedding.linear_2."),
    (r"^label_emb\.", "class_embedding."), (r"^norm_out\.", "conv_norm_out."), (r"\.norm\.", ".group_norm."),
    (r"\.emb_proj\.", ".time_emb_proj."), (r"\.skip\.", ".conv_shortcut."), (r"\.out\.", ".to_out.0."),
)


OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # files older than diffusers 0.15


REQUIRED_SETTINGS = {  # settings of UNet2DModel that our network has: the only values that can be imported
    "center_input_sample": False, "time_embedding_type": "positional", "freq_shift": 1, "flip_sin_to_cos": False, "act_fn": "silu",
    "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "downsample_padding": 0, "downsample_type": "conv",
    "upsample_type": "conv", "attn_norm_num_groups": None, "norm_eps": 1e-6, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "time_embedding_dim": None,
}


# the values that UNet2DModel uses for settings missing in a file
DIFFUSERS_DEFAULTS = {**REQUIRED_SETTINGS, "freq_shift": 0, "flip_sin_to_cos": True, "downsample_padding": 1, "norm_eps": 1e-5}


SCHEDULE_NAMES = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}


PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def diffusers_names(key: str) -> list[str]:
    """The names in diffusers of one of our parameters: three for the joint projection of query, key and value, else one."""
    for pattern, name in PARAMETER_NAMES:
        key = re.sub(pattern, name, key)
    return [key.replace(".qkv.", f".to_{x}.") for x in "qkv"] if ".qkv." in key else [key]


def norm_groups(network: nn.Module) -> set[int]:
    return {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}


def unet_config(config: Mapping, image_size: int | None) -> UNetConfig:
    """The UNetConfig of the network that a UNet2DModel's configuration describes.

    image_size: side in pixels, used if the configuration has no sample_size
    Raises CheckpointError that names the setting which our network does not support."""
    for key, value in REQUIRED_SETTINGS.items():
        if config.get(key, DIFFUSERS_DEFAULTS[key]) != value:
            raise CheckpointError(f"its {key} is {config.get(key, DIFFUSERS_DEFAULTS[key])!r}; only {value!r} can be imported")
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
            groups = norm_groups(UNet(result))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(f"its configuration is not one of a UNet2DModel that can be imported ({error!r})") from error
    if groups != {config.get("norm_num_groups", 32)}:
        raise CheckpointError(f"its norm_num_groups is {config.get('norm_num_groups', 32)}; here these widths have {sorted(groups)}")
    return result


def from_diffusers(unet: nn.Module | Mapping[str, Tensor], config: Mapping | None = None, image_size: int | None = None) -> UNet:
    """Our U-Net with the weights of a diffusers UNet2DModel, in float32 and evaluation mode.

    unet:       the UNet2DModel, or its state dict
    config:     its configuration, needed with a state dict
    image_size: side in pixels, used if the configuration has no sample_size
    The last row of a class embedding becomes the null class. Raises CheckpointError that names the setting or the weights which our
    network does not support."""
    if isinstance(unet, nn.Module):
        config, unet = config or unet.config, unet.state_dict()
    if config is None:
        raise CheckpointError("a state dict alone is not enough; give the configuration of its UNet2DModel, too")
    remaining = {re.sub(r"\.(query|key|value|proj_attn)\.", lambda m: f".{OLD_ATTENTION_NAMES[m[1]]}.", k): v for k, v in unet.items()}
    network, weights = UNet(unet_config(config, image_size)), {}
    for key in network.state_dict():
        parts = [remaining.pop(name, None) for name in diffusers_names(key)]
        if all(part is not None for part in parts):
            weights[key] = torch.cat([part.float() for part in parts]) if len(parts) > 1 else parts[0].float()
    check_weights({**weights, **remaining}, network, "diffusers' network")
    network.load_state_dict(weights)
    return network.eval()


def to_diffusers(network: UNet) -> nn.Module:
    """A diffusers UNet2DModel with the weights of our network, in float32 and evaluation mode. Its last class label is the null class.

    Raises CheckpointError that says why diffusers cannot represent the network."""
    c, groups = network.config, norm_groups(network)
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
        **REQUIRED_SETTINGS,
    )
    parts = [(diffusers_names(key), value.detach().float()) for key, value in network.state_dict().items()]
    unet.load_state_dict({name: part for names, value in parts for name, part in zip(names, value.chunk(len(names)))})
    return unet.eval()
