"""Our residual network as the image tower of an open_clip model: registered with timm, whose models open_clip can build.

The tower's name says its shape, so that an open_clip configuration alone rebuilds it: ddpm_resnet_64x128_0x2 has the stage
widths 64 and 128, and no and two residual blocks in them.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from ddpm_app.networks.resnet import ClassifierConfig, ResNet

NAME = re.compile(r"ddpm_resnet_(\d+(?:x\d+)*)_(\d+(?:x\d+)*)")


def tower_name(widths: tuple[int, ...], blocks: tuple[int, ...]) -> str:
    return f"ddpm_resnet_{'x'.join(map(str, widths))}_{'x'.join(map(str, blocks))}"


class Tower(ResNet):
    """x (B, 3, H, W) -> features (B, D), float32: the classifier's network without its last layer, under the same names.

    num_features, default_cfg and reset_classifier are what timm's models have and open_clip's adapter asks for."""

    default_cfg: dict = {}

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]):
        super().__init__(ClassifierConfig(data="", classes=("", ""), widths=widths, blocks=blocks))
        self.head, self.num_features = nn.Identity(), widths[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if num_classes or global_pool not in (None, "", "avg"):
            raise ValueError("this tower ends in averaged features; project them with timm_proj")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[1]


def register_tower(name: str) -> None:
    """Make timm know the tower of this name. Raises ValueError for a name that is not one of ours."""
    import timm

    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is no image tower of this program")
    if timm.is_model(name):
        return
    widths, blocks = (tuple(int(v) for v in part.split("x")) for part in match.groups())
    build = partial(_build, widths, blocks)
    build.__name__, build.__module__ = name, __name__  # what timm registers a model under
    timm.models.register_model(build)


def _build(widths, blocks, pretrained: bool = False, **_) -> Tower:
    """timm's signature; there is nothing pretrained to fetch, and the other settings are those of timm's own networks."""
    return Tower(widths, blocks)
