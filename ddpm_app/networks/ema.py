"""Running averages of the weights during training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def average_lengths(text: str) -> tuple[float, ...]:
    """ "0.05,0.1" -> (0.05, 0.1), the relative widths of power-function EMAs, sorted; "none" -> ().

    Raises ValueError for more than four, and for widths outside 0.005 to 0.28."""
    if text in ("none", ""):
        return ()
    try:
        lengths = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        lengths = (0.0,)
    if not all(0.005 <= a <= 0.28 for a in lengths) or len(lengths) > 4:
        raise ValueError(f"averages are {text[:60]!r}; up to four lengths between 0.005 and 0.28, or none, are accepted")
    return lengths


def power_gamma(sigma_rel: float) -> float:
    """Exponent gamma of the power-function EMA whose relative width is sigma_rel (Karras et al. 2024, algorithm 2)."""
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class Ema:
    """A running average of the weights.

    length: below 0.9, the relative width of a power-function EMA (a share of the run); from 0.9 on, a fixed decay; 0 keeps no average
    """

    def __init__(self, parameters: list[Tensor], length: float):
        self.length = length
        self.values = [p.detach().clone() for p in parameters]
        self._gamma = power_gamma(length) if 0 < length < 0.9 else None

    def decay(self, step: int) -> float:
        """The factor of the old average in the update after `step`, counted from 1. The weights get the rest."""
        if self.length == 0:
            return 0.0
        if self._gamma is not None:
            return (1 - 1 / step) ** (self._gamma + 1)
        return min(self.length, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, parameters: list[Tensor], decay: float | Tensor) -> None:
        """Add the weights after a training step. decay: decay(step), as a number or as a tensor () on the parameters' device.

        A CUDA graph reads a tensor anew at each replay."""
        new = [p.detach() for p in parameters]
        torch._foreach_sub_(self.values, new)
        torch._foreach_mul_(self.values, decay)
        torch._foreach_add_(self.values, new)

    def describe(self) -> str:
        return (
            "none (raw weights)" if not self.length else f"power, {self.length:g} of the run" if self._gamma else f"decay {self.length:g}"
        )
