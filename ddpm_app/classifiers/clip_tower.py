"""Our residual network as the image tower of an open_clip model. open_clip builds it through timm, where it is registered.

The tower's name contains its shape, so that an open_clip configuration is enough to rebuild it: ddpm_resnet_64x128_0x2 has the
stage widths 64 and 128 with 0 and 2 residual blocks.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from ddpm_app.networks.resnet import ClassifierConfig, ResNet

NAME = re.compile(r"ddpm_resnet_(\d+(?:x\d+)*)_(\d+(?:x\d+)*)")


def tower_name(widths: tuple[int, ...], blocks: tuple[int, ...]) -> str:
    """The name of the tower with these stage widths and residual blocks."""
    return f"ddpm_resnet_{'x'.join(map(str, widths))}_{'x'.join(map(str, blocks))}"


class Tower(ResNet):
    """x (B, 3, H, W) -> features (B, D), float32: the classifier's network without its last layer, under the same names.

    open_clip's adapter for timm models needs num_features, default_cfg and reset_classifier."""

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
    """Register the tower of this name with timm. Raises ValueError for a name that tower_name does not make."""
    import timm

    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is no image tower of this program")
    if timm.is_model(name):
        return
    widths, blocks = (tuple(int(v) for v in part.split("x")) for part in match.groups())
    build = partial(_build, widths, blocks)
    build.__name__, build.__module__ = name, __name__  # timm registers a model under these
    timm.models.register_model(build)


def _build(widths, blocks, pretrained: bool = False, **_) -> Tower:
    """Has the signature that timm requires. There are no pretrained weights; the other settings do not apply to this network."""
    return Tower(widths, blocks)
