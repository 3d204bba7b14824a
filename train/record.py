#!/usr/bin/env python
"""Record what the page plays when it opens: runs of the shipped models, as small files. The same models give the same files.

python train/record.py              # photos, digits and points
python train/record.py photos       # after a new checkpoints/cifar10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import project
from ddpm_app.paths import RECORDINGS


def main(argv: list[str] | None = None) -> int:
    from ddpm_app.studio.recordings import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="photos, digits or points (default: all)")
    parser.add_argument("--candidates", type=int, default=8, help="seeds of which the classifier chooses (1 to 64, default 8)")
    parser.add_argument("--out", default=str(RECORDINGS), help="folder to write to (default: the page's)")
    args = parser.parse_args(argv)
    try:
        record(args.names, Path(args.out), args.candidates, lambda line: print(line, flush=True))
    except ValueError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    project.run(main)
