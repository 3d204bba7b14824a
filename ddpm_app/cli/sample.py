"""python -m ddpm_app sample: denoise images to .npz, .png or a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(commands) -> None:
    from ddpm_app.diffusion.samplers import SAMPLERS
    from ddpm_app.diffusion.schedules import GRIDS
    from ddpm_app.studio.request import RANKERS, THROUGH, Request

    r = Request()
    p = commands.add_parser("sample", help="denoise images to .npz, .png or a folder", description="Denoise images from noise.")
    p.add_argument("--checkpoint", default="", help="name in checkpoints/ or runs/ (default: the one the page opens with)")
    p.add_argument("--n", type=int, default=r.n, help=f"images; image i has seed SEED + i (default {r.n})")
    p.add_argument("--sampler", default=r.sampler, help=f"{', '.join(SAMPLERS)} (default {r.sampler})")
    p.add_argument(
        "--evaluations", type=int, default=r.evaluations, help=f"denoiser evaluations per image, 1-1000 (default {r.evaluations})"
    )
    p.add_argument("--guidance", type=float, default=r.guidance, help=f"scale s, 1 is off, s = 1 + w (default {r.guidance})")
    p.add_argument("--label", default=r.label, help="a class (name or index), all (in turn), any (drawn by seed), none (default any)")
    p.add_argument("--seed", type=int, default=r.seed, help="seed of the first image (default 0)")
    p.add_argument("--grid", default=r.grid, help=f"noise levels visited: auto, {', '.join(GRIDS)} (default auto: the sampler's own)")
    p.add_argument("--eta", type=float, default=r.eta, help="DDIM's noise, 0-1 (default 0)")
    p.add_argument("--churn", type=float, default=r.churn, help="Heun's noise S_churn, 0-100 (default 0)")
    p.add_argument("--rescale", type=float, default=r.rescale, help="guidance rescale phi, 0-1 (default 0)")
    p.add_argument("--interval-low", type=float, default=r.interval_low, help="guide above this sigma only (default 0)")
    p.add_argument("--interval-high", type=float, default=r.interval_high, help="guide up to this sigma only (default inf)")
    p.add_argument("--text", default=r.text, help="CLIP guidance: a prompt to steer toward (default none)")
    p.add_argument("--text-scale", type=float, default=r.text_scale, help=f"of the CLIP guidance, 0-500 (default {r.text_scale:g})")
    p.add_argument("--text-through", default=r.text_through, help=f"its gradient: {' or '.join(THROUGH)} (default {r.text_through})")
    p.add_argument("--classifier-scale", type=float, default=r.classifier_scale, help="classifier guidance, 0-50 (default 0: off)")
    p.add_argument("--steer-low", type=float, default=r.steer_low, help="CLIP and classifier guide above this sigma only (default 0)")
    p.add_argument("--steer-high", type=float, default=r.steer_high, help="and up to this sigma only (default inf)")
    p.add_argument("--candidates", type=int, default=r.candidates, help="re-ranking: keep the best of this many, 1-64 (default 1)")
    p.add_argument("--rank-by", default=r.rank_by, help=f"{' or '.join(RANKERS)} (default {r.rank_by})")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    p.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="default auto: bf16 where it is fast")
    p.add_argument("--out", required=True, help="FILE.npz (arr_0 uint8 NHWC, arr_1 int64), FILE.png (a grid) or a folder of PNGs")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from ddpm_app.files import check_target
    from ddpm_app.studio.studio import Request, Studio

    out = Path(args.out)
    if out.suffix not in (".npz", ".png", "") or out.is_dir() == bool(out.suffix) and out.exists():
        raise ValueError(f"--out is {args.out}; FILE.npz, FILE.png or a folder is accepted")
    check_target(out if out.suffix else out / "00000.png")
    studio = Studio(device=args.device, precision=args.precision)
    fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(Request)}
    fields["checkpoint"] = fields["checkpoint"] or studio.default()
    request = Request(**fields)
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
