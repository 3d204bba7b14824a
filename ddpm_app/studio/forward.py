"""The forward process on an image: x_t at chosen times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ddpm_app.diffusion.samplers import SeededNoise
from ddpm_app.diffusion.schedules import Schedule, add_noise, to_vp
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.studio.request import SEED_LIMIT


def forward_process(picture: np.ndarray, schedule: Schedule, t: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x_t of one image at several times, all with the same noise.

    picture: uint8 (C, H, W)
    t:       times from 0, the image itself, to T
    Returns x_t, uint8 (len(t), C, H, W), and the noise, float32 (C, H, W), which equals the noise of Studio.sample for this seed.
    Raises ValueError for a time or a seed out of range.
    """
    if not 0 <= seed <= SEED_LIMIT:
        raise ValueError(f"seed is {seed}; a whole number from 0 to {SEED_LIMIT} is accepted")
    x0 = to_model(torch.from_numpy(picture.copy()))[None]
    eps = SeededNoise([seed])(torch.empty(1, *picture.shape))
    noisy = np.empty((len(t), *picture.shape), np.uint8)
    for i, k in enumerate(t):
        if not 0 <= k <= schedule.T:
            raise ValueError(f"t is {k}; a whole number from 0 to {schedule.T} is accepted")
        sigma = schedule.sigma[k - 1] if k else torch.zeros((), dtype=torch.float64)
        noisy[i] = to_uint8(to_vp(add_noise(x0, sigma, eps), sigma))[0].numpy()
    return noisy, eps[0].numpy()
