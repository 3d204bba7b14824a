"""The only two places where pixels change range, and the suffixes of image files."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def to_model(images: Tensor) -> Tensor:
    """uint8 (..., C, H, W) in [0, 255] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float (..., C, H, W) in model space -> uint8, values outside [-1, 1] clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
