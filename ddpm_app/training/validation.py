"""The loss of a run's EMA weights on held-out images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.images.datasets import ImageData
from ddpm_app.images.pixels import to_model

VALIDATION_IMAGES = 512  # of the held-out images, or all if there are fewer


@contextlib.contextmanager
def averaged(trainer) -> Iterator[Denoiser]:
    """The run's network with its EMA weights, in evaluation mode and without gradients; training goes on with the raw weights."""
    kept = [p.detach().clone() for p in trainer.parameters]
    with torch.no_grad():
        torch._foreach_copy_(trainer.parameters, trainer.ema.values)
        trainer.network.eval()
        # not the compiled network, which accepts one batch size
        yield dataclasses.replace(trainer.denoiser, network=trainer.network)
        torch._foreach_copy_(trainer.parameters, kept)
        trainer.network.train()


def validation_loss(trainer, data: ImageData, count: int = VALIDATION_IMAGES) -> float:
    """Mean loss of the EMA weights on the first `count` held-out images, at fixed t (spread evenly) and fixed noise."""
    g, total, n = torch.Generator().manual_seed(1), 0.0, min(count, len(data))
    with averaged(trainer) as denoiser:
        for start in range(0, n, 128):
            index = torch.arange(start, min(start + 128, n))
            x0, label = to_model(data.images[index]).to(trainer.device), data.labels[index].to(trainer.device)
            t = (index * trainer.config.T // n).to(trainer.device)
            eps = torch.randn(x0.shape, generator=g).to(trainer.device)
            with torch.autocast(trainer.device.type, trainer.dtype, enabled=trainer.dtype != torch.float32):
                total += float(denoiser.loss(x0, t, eps, label, trainer.config.weight).sum())
    return total / n
