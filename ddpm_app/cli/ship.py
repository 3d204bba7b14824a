"""Copy a finished run into checkpoints/ as a model that ships: EMA weights (fp16), log, newest sample grid, animation, model card.

    python train/ship.py runs/mnist checkpoints/mnist --note "what this model is good for"

The card's numbers come from the run's config, log and metrics.json.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.files import write_atomically
from ddpm_app.flags import Parser
from ddpm_app.studio import exports
from ddpm_app.studio.studio import Studio
from ddpm_app.training import card


def animation(model: Path) -> bytes:
    """Sixteen images from noise to sample as a looping WebP at native size. The page shows it before the first click."""
    studio = Studio([model.parent], precision="fp32")
    tuned = open_checkpoint(model).config.tuned_for
    request = studio.request(model.name, n=16, seed=3, **({"evaluations": 4} if tuned else {"guidance": 2.0, "evaluations": 28}))
    frames = [exports.frame_grid(frame.x, 4) for frame in studio.sample(request)]
    buffer, durations = io.BytesIO(), [500 if tuned else 70] * (len(frames) - 1) + [2200]  # ms
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=75, method=4)
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: done; 2: the run cannot be shipped."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory that train_unet.py wrote")
    parser.add_argument("out", type=Path, help="directory of the shipped model, e.g. checkpoints/mnist")
    parser.add_argument("--note", default="A denoising diffusion model.", help="the card's first paragraph")
    parser.add_argument("--machine", default="", help="what it was trained on (default: what the run has recorded)")
    args = parser.parse_args(argv)
    try:
        shipped = card.ship(args.run, args.out, args.note, args.machine)
    except ValueError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    write_atomically(args.out / "denoising.webp", animation(args.out))
    size = sum(file.stat().st_size for file in args.out.iterdir()) / 1e6
    print(f"{args.out}: {shipped.config.images_seen} images seen, {size:.1f} MB")
    return 0
