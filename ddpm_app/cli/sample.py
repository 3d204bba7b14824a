"""python -m ddpm_app sample: sample images; writes an .npz, a grid as .png, or a folder of PNGs."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch

from ddpm_app.files import check_target, write_atomically
from ddpm_app.flags import add_flags, read_flags
from ddpm_app.images import render
from ddpm_app.studio import backend
from ddpm_app.studio.exports import image_png
from ddpm_app.studio.presets import PRESETS
from ddpm_app.studio.request import Request, fixed_guidance
from ddpm_app.studio.studio import Ranked, Studio


def add_arguments(p: argparse.ArgumentParser) -> None:
    add_flags(p, Request)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    p.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp32"),
        help="precision of matrix products; auto is bf16 where it is fast (default auto)",
    )
    p.add_argument("--backend", default="auto", choices=backend.BACKENDS, help=f"{backend.HELP} (default auto)")
    p.add_argument("--preset", choices=PRESETS, help="sampler, evaluations, grid and guidance by time and quality; other flags win")
    p.add_argument("--out", required=True, help="FILE.npz (arr_0 uint8 NHWC, arr_1 int64), FILE.png (a grid) or a folder of PNGs")


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    if out.suffix not in (".npz", ".png", "") or out.is_dir() == bool(out.suffix) and out.exists():
        raise ValueError(f"--out is {args.out}; FILE.npz, FILE.png or a folder is accepted")
    check_target(out if out.suffix else out / "00000.png")
    studio = Studio(device=args.device, precision=args.precision, backend=args.backend)
    given = read_flags(Request, args)
    if args.preset:
        preset = studio.preset(args.preset, args.checkpoint or studio.default())
        given = {**preset, **given, "checkpoint": preset["checkpoint"]}
    request = studio.request(**given)
    config = studio.checkpoint(request.checkpoint).config
    if given.get("guidance", request.guidance) != request.guidance:
        print(f"{request.checkpoint}: {fixed_guidance(config)}", file=sys.stderr)
    progress = (lambda k, n: print(f"\r{k}/{n}", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    samples = studio.ranked(request, progress)
    write_samples(out, samples, request, config.classes)
    if words := studio.steering.unknown_words(request, config):
        print(f"words that were not in the shipped CLIP's training captions and have no effect: {', '.join(words)}", file=sys.stderr)
    best, mean = samples.scores.max(0).mean(), samples.scores.mean()
    ranking = f"; mean {request.rank_by} score of the kept images {best:.4f}, of all candidates {mean:.4f}"
    print(
        f"{out}: {len(samples.images)} image{'s' if len(samples.images) != 1 else ''}, {request.true_evaluations} evaluations each"
        + (ranking if request.candidates > 1 else "")
    )
    return 0


def write_samples(out: Path, samples: Ranked, request: Request, classes: tuple[str, ...]) -> None:
    """Write the samples; each file is written under a temporary name first. A folder gets one PNG per image, with its settings."""
    images, labels = samples.images, samples.labels
    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, arr_0=images, arr_1=labels)
        write_atomically(out, buffer.getvalue())
    elif out.suffix == ".png":
        columns = len(classes) if request.label == "all" and classes else max(round(len(images) ** 0.5), 1)
        render.save_png(render.grid(torch.from_numpy(images).permute(0, 3, 1, 2), columns), out)
    else:
        for i, image in enumerate(images):
            write_atomically(out / f"{i:05d}.png", image_png(image.transpose(2, 0, 1), request, int(samples.chosen[i]), int(labels[i])))
