#!/usr/bin/env python
"""Train a toy, measure it, and write its card: a directory with config.json, weights.safetensors and README.md.

python train/train_toy.py shipped                       the four models under checkpoints/toy
python train/train_toy.py one --data spirals --out runs/spirals --steps 4000
"""

from __future__ import annotations

import argparse
import sys
import time

import project
from ddpm_app.cli import train_toy
from ddpm_app.flags import Parser


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train_toy.add_arguments(parser)
    args, started = parser.parse_args(argv), time.perf_counter()
    try:
        train_toy.run(args)
    except (ValueError, FloatingPointError) as error:
        print(f"train_toy: {error}", file=sys.stderr)
        return 2
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    project.run(main)
