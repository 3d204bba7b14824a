"""Tensors to pictures: grids, strips, animations. Knows nothing of diffusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def grid(images: Tensor, columns: int, pad: int = 2, background: int = 255) -> Image.Image:
    """uint8 (N, C, H, W) with 1 or 3 channels -> an RGB picture at native size, row by row."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + pad) - pad, columns * (w + pad) - pad, 3), background, np.uint8)
    pixels = images.permute(0, 2, 3, 1).expand(n, h, w, 3).numpy() if c == 1 else images.permute(0, 2, 3, 1).numpy()
    for k in range(n):
        y, x = divmod(k, columns)
        canvas[y * (h + pad) : y * (h + pad) + h, x * (w + pad) : x * (w + pad) + w] = pixels[k]
    return Image.fromarray(canvas)


def save_png(picture: Image.Image, file: Path) -> None:
    """Write a PNG under a temporary name and rename."""
    temporary = file.with_name(f".{file.name}.tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(file)
