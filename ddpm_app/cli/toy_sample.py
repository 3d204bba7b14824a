"""python -m ddpm_app toy sample: sample points from a trained toy. Every run writes the same file, bit for bit."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app.diffusion.guidance import cfg
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS, last
from ddpm_app.diffusion.schedules import GRIDS, SIGMA_CAP, from_vp, sigma_grid
from ddpm_app.files import write_atomically
from ddpm_app.networks.mlp import MAX_DIM
from ddpm_app.toy import checkpoint
from ddpm_app.toy.points import open_npy
from ddpm_app.toy.sweeps import normal

SAMPLE_ROWS = 1024  # points in every batch, so that a point does not depend on the number of points


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--checkpoint", required=True, help="directory of a trained toy")
    p.add_argument("--prior", help=".npy of shape (N, d), standard normal x_T (default: drawn from --seed)")
    p.add_argument("--n", type=int, default=1000, help="number of points, without --prior (default 1000)")
    p.add_argument("--sampler", default="ddpm", choices=tuple(GENERAL_SAMPLERS))
    p.add_argument("--steps", type=int, help="steps of the sampler (default: every level of the model's schedule)")
    p.add_argument("--grid", default="uniform-t", choices=tuple(GRIDS))
    p.add_argument("--no-noise", action="store_true", help="leave out the noise that a stochastic sampler adds at every step")
    p.add_argument("--label", type=int, help="number of a class")
    p.add_argument("--scale", type=float, default=1.0, help="guidance scale of classifier-free guidance; 1 is off")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", required=True, help=".npy (float32) or .csv to write")


def run(args: argparse.Namespace) -> None:
    """Sample in float64, on one thread and in blocks of a fixed size: rounded to float32, the result is the same on every run."""
    model = checkpoint.load_toy(args.checkpoint, torch.float64)
    config, schedule = model.denoiser.network.config, model.denoiser.schedule
    if args.prior:
        prior = _prior(Path(args.prior), config.dim)
    else:
        prior = torch.randn(args.n, config.dim, generator=torch.Generator().manual_seed(args.seed), dtype=torch.float64)
    if args.label is not None and not 0 <= args.label < config.num_classes:
        raise ValueError(f"--label is {args.label}; {model.name} has {config.num_classes} classes, counted from 0")
    if Path(args.out).suffix.lower() not in (".npy", ".csv"):
        raise ValueError(f"{args.out} must end in .npy or .csv")
    sigmas = sigma_grid(schedule, args.steps or int((schedule.sigma <= SIGMA_CAP).sum()), args.grid)
    method, threads, parts = GENERAL_SAMPLERS[args.sampler], torch.get_num_threads(), []
    noise = torch.zeros_like if args.no_noise else normal(args.seed + 1)
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for block in prior.split(SAMPLE_ROWS):
                rows = len(block)
                block = torch.cat([block, block.new_zeros(SAMPLE_ROWS - rows, config.dim)])
                label = None if args.label is None else torch.full((SAMPLE_ROWS,), args.label)
                denoise = cfg(model.denoiser, label, args.scale) if label is not None else lambda x, s: model.denoiser(x, s)
                x = last(method.steps(denoise, from_vp(block, sigmas[0]), sigmas, noise))
                parts.append(model.from_model(x)[:rows])
    finally:
        torch.set_num_threads(threads)
    _write_points(Path(args.out), torch.cat(parts).float())
    print(f"{len(prior)} points of {config.dim} numbers: {args.out}", file=sys.stderr)


def _prior(path: Path, dim: int) -> Tensor:
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    array = open_npy(path)
    if array.ndim != 2 or not len(array):
        raise ValueError(f"{path} has shape {array.shape}; accepted is shape (N, d)")
    if array.shape[1] != dim or dim > MAX_DIM:
        raise ValueError(f"{path} has {array.shape[1]} columns; this model's points have {dim}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path} holds values that are not finite numbers")
    return torch.from_numpy(array.astype(np.float64))


def _write_points(path: Path, x: Tensor) -> None:
    if path.suffix.lower() == ".csv":
        write_atomically(path, "".join(",".join(f"{v:.9g}" for v in row) + "\n" for row in x.tolist()))
    else:
        buffer = io.BytesIO()
        np.save(buffer, x.numpy())
        write_atomically(path, buffer.getvalue())
