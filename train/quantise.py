#!/usr/bin/env python
"""Measure a model in int8 for OpenVINO: `python train/quantise.py checkpoints/mnist` writes int8.json beside its weights.

The ranges of the convolutions' inputs come from the model's own images with noise of 20 levels. Then int8 is compared with float32: the
predicted x0 at these levels (accepted up to 2 grey levels, root mean square) and 64 finished images (accepted from 35 dB). The page does
the same in the background for models without the file, with --cache.
"""

import project
from ddpm_app.cli import quantise


def main(argv: list[str] | None = None) -> int:
    return quantise.main(argv, __doc__)


if __name__ == "__main__":
    project.run(main)
