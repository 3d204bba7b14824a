"""python -m ddpm_app sample: denoise images to .npz, .png or a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(commands) -> None:
    from ddpm_app.flags import add_flags
    from ddpm_app.studio.request import Request

    p = commands.add_parser("sample", help="denoise images to .npz, .png or a folder", description="Denoise images from noise.")
    add_flags(p, Request)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    p.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="default auto: bf16 where it is fast")
    p.add_argument("--out", required=True, help="FILE.npz (arr_0 uint8 NHWC, arr_1 int64), FILE.png (a grid) or a folder of PNGs")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ddpm_app.files import check_target
    from ddpm_app.flags import read_flags
    from ddpm_app.studio.studio import Request, Studio

    out = Path(args.out)
    if out.suffix not in (".npz", ".png", "") or out.is_dir() == bool(out.suffix) and out.exists():
        raise ValueError(f"--out is {args.out}; FILE.npz, FILE.png or a folder is accepted")
    check_target(out if out.suffix else out / "00000.png")
    studio = Studio(device=args.device, precision=args.precision)
    fields = read_flags(Request, args)
    request = Request(**fields, **({} if fields.get("checkpoint") else {"checkpoint": studio.default()}))
    tty = sys.stderr.isatty()
    found = studio.ranked(request, (lambda k, n: print(f"\r{k}/{n}", end="", file=sys.stderr)) if tty else None)
    write_samples(out, found, request, studio.checkpoint(request.checkpoint).config.classes)
    if words := studio.steering.unread(request, studio.checkpoint(request.checkpoint).config):
        print(f"the CLIP that ships has never read: {', '.join(words)}", file=sys.stderr)
    ranked = f"; {request.rank_by} of the best {found.scores.max(0).mean():.4f}, of all {found.scores.mean():.4f}"
    print(
        f"{out}: {len(found.images)} image{'s' if len(found.images) != 1 else ''}, {request.true_evaluations} evaluations each"
        + (ranked if request.candidates > 1 else "")
    )
    return 0


def write_samples(out: Path, found, request, classes) -> None:
    """Under a temporary name, then renamed. A folder gets one PNG an image, with its settings embedded."""
    import io

    import numpy as np
    import torch

    from ddpm_app.files import write_atomically
    from ddpm_app.images import render
    from ddpm_app.studio.exports import image_png

    images, labels = found.images, found.labels
    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, arr_0=images, arr_1=labels)
        write_atomically(out, buffer.getvalue())
    elif out.suffix == ".png":
        columns = len(classes) if request.label == "all" and classes else max(round(len(images) ** 0.5), 1)
        render.save_png(render.grid(torch.from_numpy(images).permute(0, 3, 1, 2), columns), out)
    else:
        for i, image in enumerate(images):
            write_atomically(out / f"{i:05d}.png", image_png(image.transpose(2, 0, 1), request, int(found.chosen[i]), int(labels[i])))
