"""The configuration of the U-Net, and presets. Does not load torch, so that models list fast."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_app.flags import check_choice


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. Raises ValueError for values that are not accepted.

    image_size:  side in pixels
    in_channels: 1 grey, 3 RGB
    channels:    width of the first level
    multipliers: width of each level / channels
    blocks:      residual blocks per level
    attention:   resolutions (sides in pixels) with self-attention; the middle always has it
    head_dim:    channels per attention head; 0 for a single head
    dropout:     probability in each block
    num_classes: 0 for an unconditional network
    """

    image_size: int = 32
    in_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    head_dim: int = 0
    dropout: float = 0.1
    num_classes: int = 0

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        ok = 4 <= self.image_size <= 256 and 1 <= self.in_channels <= 4 and 8 <= self.channels <= 512
        ok = ok and 1 <= len(self.multipliers) <= 6 and all(1 <= m <= 16 for m in self.multipliers)
        ok = ok and 1 <= self.blocks <= 8 and 0 <= self.num_classes <= 100_000 and 0 <= self.dropout < 1
        heads = [(c, max(c // self.head_dim, 1)) for c in (self.channels * m for m in self.multipliers) if self.head_dim > 0]
        ok = ok and self.head_dim >= 0 and all(c % n == 0 for c, n in heads) and self.image_size >> (len(self.multipliers) - 1) >= 1
        if not ok or self.channels % 8:
            raise ValueError(
                f"this U-Net cannot be built: {self}; accepted are image_size 4..256, channels 8..512 in steps of 8, 1 to 6 multipliers of"
                " 1..16, blocks 1..8, dropout from 0 to below 1, and a head_dim that divides the widths"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def resolutions(self) -> list[int]:
        """The side of the feature maps at each level, in pixels. Halving rounds down, as the stride-2 convolution does."""
        return [self.image_size >> k for k in range(len(self.multipliers))]


# Sizes at 32x32x3 with 10 classes are tested in tests/networks/test_unet.py.
PRESETS: dict[str, dict] = {
    "ddpm": dict(channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1),
    "small": dict(channels=64, multipliers=(1, 2, 2, 2), blocks=1, attention=(16,), head_dim=64, dropout=0.0),
    "tiny": dict(channels=32, multipliers=(1, 2, 3), blocks=1, attention=(8,), head_dim=32, dropout=0.0),
}


def preset_config(name: str, **overrides) -> UNetConfig:
    """The UNetConfig of a preset ("ddpm", "small", "tiny"). overrides: fields to replace, e.g. num_classes=10. Raises ValueError."""
    return UNetConfig(**{**PRESETS[check_choice("preset", name, PRESETS)], **overrides})
