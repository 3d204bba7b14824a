"""Measures training on this machine for a few seconds and derives a batch, a learning rate and a predicted end from a budget in minutes."""

from __future__ import annotations

import dataclasses
import math
import time

import torch

from ddpm_app.images.datasets import KNOWN, SHAPES, ImageData, load_data
from ddpm_app.networks.device import describe, pick_device
from ddpm_app.training.config import LR, TrainConfig
from ddpm_app.training.trainer import Trainer

CANDIDATES = {"cuda": (128, 512), "cpu": (32, 64), "mps": (32, 64, 128)}
STEPS = 2500  # a run should have at least about this many
SECONDS_BETWEEN_VALIDATIONS, VALIDATIONS = 20, (4, 20)  # at least this many seconds apart; fewest and most in a run
GOOD = 0.9  # the smallest batch with at least this share of the best rate is taken


def stand_in(config: TrainConfig) -> ImageData:
    """Random images of the data's shape. The speed does not depend on what they show."""
    if config.data in SHAPES:
        (c, h, w), classes = SHAPES[config.data], KNOWN[config.data]
    else:
        data = load_data(config.data, image_size=config.image_size or None)
        (c, h, w), classes = data.images.shape[1:], data.classes
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1024, c, h, w), generator=g, dtype=torch.uint8)
    return ImageData(config.data, images, torch.randint(0, len(classes), (1024,), generator=g), classes)


def rates(config: TrainConfig, seconds: float = 15.0, batches: tuple[int, ...] = ()) -> dict[int, float]:
    """Training images per second at each batch, measured in about `seconds` in all. Batches that do not fit into memory are left out.

    Raises ValueError if none fits."""
    device = pick_device(config.device)
    batches = batches or CANDIDATES.get(device.type, CANDIDATES["cpu"])
    trainer, rate_of_batch, end = Trainer(config, stand_in(config)), {}, time.perf_counter() + seconds
    for k, batch in enumerate(batches):
        trainer.config = dataclasses.replace(config, batch=batch)
        trainer.graph = None  # it has the size of the last batch
        if config.compile == "graph":
            trainer.compile()
        until = time.perf_counter() + max(end - time.perf_counter(), 0.5) / (len(batches) - k)
        try:
            for _ in range(3 if device.type == "cuda" else 1):
                trainer.train_step()
            _wait(device)
            steps, begun = 0, time.perf_counter()
            while steps < 2 or (time.perf_counter() < until and steps < 200):
                trainer.train_step()
                steps += 1
                if steps % 10 == 0:
                    _wait(device)
            _wait(device)
            rate_of_batch[batch] = steps * batch / (time.perf_counter() - begun)
        except torch.OutOfMemoryError:
            break
    if not rate_of_batch:
        raise ValueError(f"a batch of {batches[0]} does not fit into the memory of {describe(device)}; choose a smaller preset")
    return rate_of_batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def derive(rate_of_batch: dict[int, float], minutes: float, preset: str) -> dict:
    """The settings for a budget of `minutes`: batch, lr, warmup, ema, validations, and the predicted images and steps.

    rate_of_batch: {batch: images/s}
    batch:  the smallest with a rate of at least GOOD times the best; the smallest of all if the run would have fewer than STEPS steps
    lr:     config.LR times the square root of the batch (relative to the batch that LR is for), at most 2e-3
    warmup: a tenth of the images, at most 20,000
    ema:    0.05 of the run; 0.02 of a run of fewer than STEPS steps, because a long EMA lags behind the weights there (938 steps on
            digits: validation loss 0.2378 raw, 0.2379 at 0.02, 0.2380 at 0.05, 0.2386 at 0.1, 0.2396 at 0.15)
    """
    best = max(rate_of_batch.values())
    batch = min(b for b, rate in rate_of_batch.items() if rate >= GOOD * best)
    fewer = [b for b in sorted(rate_of_batch) if b < batch and rate_of_batch[batch] * 60 * minutes / batch < STEPS]
    batch = fewer[0] if fewer else batch
    images = rate_of_batch[batch] * 60 * minutes
    base = 2e-4 * math.sqrt(batch / 128) if preset == "ddpm" else LR.get(preset, LR["small"]) * math.sqrt(batch / 64)
    steps = int(images // batch)
    return {
        "batch": batch,
        "ema": 0.05 if steps >= STEPS else 0.02,
        "validations": int(min(max(60 * minutes // SECONDS_BETWEEN_VALIDATIONS, VALIDATIONS[0]), VALIDATIONS[1])),
        "lr": float(f"{min(base, 2e-3):.2g}"),
        "warmup": int(min(20_000, images // 10)),
        "images": int(images),
        "steps": steps,
        "images_per_s": rate_of_batch[batch],
    }


def plan(config: TrainConfig, seconds: float = 15.0) -> dict:
    """What train_unet.py --probe prints: the fields of derive(), every measured rate, and the device."""
    measured = rates(config, seconds)
    minutes = config.minutes or config.images / max(measured.values()) / 60
    facts = {"rates": measured, "minutes": minutes, "device": describe(pick_device(config.device))}
    return derive(measured, minutes, config.preset) | facts
