"""Measured numbers of a checkpoint, each stored with its protocol in the checkpoint's metrics.json.

So far bits per dimension; Frechet distance and agreement in classifier features are train/judge.py's.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import likelihood
from .checkpoints import Checkpoint, read_text, write_atomically
from .data import ImageData, load_data
from .studio import Studio, known

METRICS = ("bpd-bound", "bpd-flow")


@dataclass(frozen=True)
class Measurement:
    """name, value; error: one standard error, NaN where unknown; detail: the value's parts; protocol: how it was measured."""

    name: str
    value: float
    error: float
    detail: dict
    protocol: dict


def measure(studio: Studio, checkpoint: Checkpoint, metric: str, data: ImageData, n: int, seed: int, draws: int, steps: int) -> Measurement:
    """One metric on the first n images of data, each given its own class, unguided."""
    known("metric", metric, METRICS)
    config = checkpoint.config
    shape = (config.network.in_channels, config.network.image_size, config.network.image_size)
    if tuple(data.images.shape[1:]) != shape:
        raise ValueError(f"{data.name} has images {tuple(data.images.shape[1:])}; {checkpoint.name} makes {shape}")
    if not 2 <= n <= len(data):
        raise ValueError(f"n is {n}; {data.name} gives 2 to {len(data)} images")
    denoiser = studio.denoiser(checkpoint)
    conditional = config.network.num_classes == len(data.classes)
    batch, labels = 32, data.labels[:n]
    position = 0

    def denoise(x, sigma):  # the likelihoods go through the images in order, batch by batch
        label = labels[position : position + len(x)].to(studio.device) if conditional else None
        return denoiser(x.to(studio.device), sigma, label).to(x.device)

    protocol = {"images": f"first {n} of {data.name} test", "n": n, "class": "given" if conditional else "none", "seed": seed}
    protocol |= {"precision": str(studio.dtype).removeprefix("torch."), "ema": config.ema, "images_seen": config.images_seen}
    parts = []
    for position in range(0, n, batch):  # noqa: B007 - read by denoise
        chunk = data.images[position : min(position + batch, n)]
        if metric == "bpd-bound":
            parts.append((len(chunk), likelihood.variational_bound(denoise, chunk, denoiser.schedule, draws, seed + position, batch)))
        else:
            parts.append((len(chunk), likelihood.flow_likelihood(denoise, chunk, denoiser.schedule, steps, 2, seed + position, batch)))
    if metric == "bpd-bound":
        protocol |= {"variance": "beta_t", "times per image": min(draws, denoiser.schedule.T - 1), "decoder": "discrete, sqrt(beta_1)"}
        names, value = ("L_T", "L_mid", "L_0"), "total"
    else:
        protocol |= {
            "solver": f"Heun, {steps} steps of ln sigma",
            "divergence": "Hutchinson, 2 Rademacher probes",
            "dequantisation": "uniform",
        }
        names, value = ("probe_error",), "bits"
    detail = {k: sum(m * getattr(p, k) for m, p in parts) / n for k in names}
    error = math.sqrt(sum((m * p.standard_error) ** 2 for m, p in parts if m > 1)) / n
    return Measurement(metric, sum(m * getattr(p, value) for m, p in parts) / n, error, detail, protocol)


def store(checkpoint: Checkpoint, measurement: Measurement) -> Path:
    """Append to the checkpoint's metrics.json."""
    file = checkpoint.path / "metrics.json"
    try:
        rows = json.loads(read_text(file) or "[]")
    except ValueError as error:
        raise ValueError(f"{file} is cut short or not JSON; move it away first") from error
    write_atomically(file, json.dumps([*rows, asdict(measurement)], indent=1))
    return file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="name in checkpoints/ or runs/")
    parser.add_argument("--metrics", default="bpd-bound", help=f"separated by commas: {', '.join(METRICS)} (default bpd-bound)")
    parser.add_argument("--n", type=int, default=128, help="test images (default 128)")
    parser.add_argument("--against", default="", help="data set whose test split is used, or an .npz (default: the checkpoint's own)")
    parser.add_argument("--draws", type=int, default=20, help="times t per image of the bound; 999 takes all (default 20)")
    parser.add_argument("--steps", type=int, default=50, help="Heun steps of the flow (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--precision", default="fp32", choices=("auto", "bf16", "fp32"), help="of matrix products (default fp32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--write", action="store_true", help="append to the checkpoint's metrics.json")


def run(args: argparse.Namespace) -> int:
    names = [known("metric", name.strip(), METRICS) for name in args.metrics.split(",")]
    if args.draws < 1 or args.steps < 1:
        raise ValueError("--draws and --steps are at least 1")
    if args.n < 2:
        raise ValueError(f"n is {args.n}; at least 2 images are needed")
    studio = Studio(device=args.device, precision=args.precision)
    checkpoint = studio.checkpoint(args.checkpoint)
    data = load_data(args.against or checkpoint.config.data, "test")
    for name in names:
        with torch.no_grad():
            m = measure(studio, checkpoint, name, data, args.n, args.seed, args.draws, args.steps)
        parts = "  ".join(f"{k} {v:.4f}" for k, v in m.detail.items())
        print(f"{name} {m.value:.4f} +- {m.error:.4f} bits/dim   {parts}\n  {json.dumps(m.protocol)}", flush=True)
        if args.write:
            print(f"  stored in {store(checkpoint, m)}")
    return 0
