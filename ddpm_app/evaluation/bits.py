"""Bits per dimension of test images: the variational bound and the probability flow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.measurements import Measurement
from ddpm_app.diffusion import likelihood
from ddpm_app.evaluation.plan import BITS, Plan
from ddpm_app.evaluation.protocol import commit, precision_of
from ddpm_app.flags import check_choice
from ddpm_app.images.datasets import ImageData
from ddpm_app.images.sets import Progress
from ddpm_app.studio.request import check_is_denoiser
from ddpm_app.studio.studio import Studio

HALVED = 4  # images whose flow is integrated again with half the steps


@torch.no_grad()
def measure_bits(studio: Studio, checkpoint: Checkpoint, metric: str, data: ImageData, part: str, plan: Plan) -> Iterator:
    """Yield Progress, then the Measurement of one of BITS on the first plan.bits_n images of data. Each image has its own class as the
    condition; there is no guidance.

    part: the split of data, for the protocol. Raises ValueError for images of another shape, too few images, a result below zero."""
    check_choice("metric", metric, BITS)
    check_is_denoiser(checkpoint.config, "a likelihood")
    config, n, seed, draws, steps = checkpoint.config, plan.bits_n, plan.request.seed, plan.draws, plan.steps
    shape = config.network.image_shape
    if tuple(data.images.shape[1:]) != shape:
        raise ValueError(f"{data.name} has images {tuple(data.images.shape[1:])}; {checkpoint.name} makes {shape}")
    if not 2 <= n <= len(data):
        raise ValueError(f"n is {n}; {data.name} gives 2 to {len(data)} images")
    denoiser = studio.denoiser(checkpoint)
    conditional = config.network.num_classes > 0 and config.network.num_classes == len(data.classes)
    batch, labels = 32, data.labels[:n]
    position = 0

    def denoise(x, sigma):  # the likelihood functions read the images in order
        label = labels[position : position + len(x)].to(studio.device) if conditional else None
        return denoiser(x.to(studio.device), sigma, label).to(x.device)

    protocol = {"images": f"first {n} of {data.name} {part}".strip(), "n": n, "class": "given" if conditional else "none", "seed": seed}
    protocol |= {"checkpoint": checkpoint.name, "precision": precision_of(studio), "ema": config.ema, "images_seen": config.images_seen}
    protocol |= {"date": time.strftime("%Y-%m-%d"), "commit": commit()}
    parts = []
    for position in range(0, n, batch):  # noqa: B007 - read by denoise
        yield Progress(metric, position, n)
        chunk = data.images[position : min(position + batch, n)]
        if metric == "bpd-bound":
            parts.append((len(chunk), likelihood.variational_bound(denoise, chunk, denoiser.schedule, draws, seed + position, batch)))
        else:
            parts.append((len(chunk), likelihood.flow_likelihood(denoise, chunk, denoiser.schedule, steps, 2, seed + position, batch)))
    position, few = 0, data.images[: min(n, HALVED)]
    if metric == "bpd-flow":  # the change from half the steps shows whether the solver's steps are small enough; same images and probes
        twice = []
        for m in (steps, steps // 2) if steps > 1 else ():
            yield Progress("bpd-flow with half the steps", len(twice), 2)
            twice.append(likelihood.flow_likelihood(denoise, few, denoiser.schedule, m, 2, seed, batch).bits)
    yield Progress(metric, n, n)
    if metric == "bpd-bound":
        protocol |= {"variance": "beta_t", "times per image": min(draws, denoiser.schedule.T - 1), "decoder": "discrete, sqrt(beta_1)"}
        names, value = ("L_T", "L_mid", "L_0"), "total"
        rows = zip(*(p.levels for _, p in parts))
        levels = [[*row[0][:2], sum(m * r[2] for (m, _), r in zip(parts, row)) / n] for row in rows]
    else:
        protocol |= {"solver": f"Heun, {steps} steps of ln sigma", "divergence": "Hutchinson, 2 Rademacher probes"}
        protocol |= {"decoder": "discrete, sqrt(beta_1), from x_1"}
        names, value = ("probe_error",), "bits"
    detail = {k: sum(m * getattr(p, k) for m, p in parts) / n for k in names}
    detail |= {"levels": levels} if metric == "bpd-bound" else {"change from half the steps": twice[0] - twice[1] if twice else None}
    error = math.sqrt(sum((m * p.standard_error) ** 2 for m, p in parts if m > 1)) / n
    bits = sum(m * getattr(p, value) for m, p in parts) / n
    if bits <= 0:  # impossible for a code length
        cure = f"{steps} steps are too few for its solver; take more" if metric == "bpd-flow" else "the model gives numbers out of range"
        raise ValueError(f"{bits:.3f} bits/dim is below zero and so no likelihood: {cure}")
    yield Measurement(metric, bits, error, detail, protocol)
