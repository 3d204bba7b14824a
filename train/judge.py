#!/usr/bin/env python
"""Measure how often a classifier agrees with the requested labels: another name of `python -m ddpm_app evaluate --preset agreement`.

    python train/judge.py checkpoints/mnist --n 100 --guidance 1.5 --evaluations 20
    python train/judge.py checkpoints/mnist --n 100 --write            # adds the numbers to the model's metrics.json

Prints JSON: the share where the classifier agrees with the requested label (with its 95 % Wilson interval), the mean of the highest
probability, how often each class is predicted, and the Frechet distance of the classifier's features to real test images
(FD-classifier: it compares models measured with the same classifier and the same n, and is no FID). Real test images are measured,
too; no model can be expected to do better than they do. The protocol is part of the output.
"""

from __future__ import annotations

import argparse
import sys

import project
from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.cli import agreement
from ddpm_app.flags import Parser


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    agreement.add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        open_checkpoint(args.checkpoint)  # a directory, not a name
        return agreement.run(args)
    except ValueError as error:
        print(f"judge: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    project.run(main)
