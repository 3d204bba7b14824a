"""train/quantise.py: the int8 of a model for OpenVINO, measured against float32."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.networks import openvino
from ddpm_app.studio import backend
from ddpm_app.studio.request import Request


def main(argv: list[str] | None, description: str) -> int:
    """Exit code 0: int8 can be used; 1: it was refused; 2: the model cannot be read, or OpenVINO is missing."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory of a model, e.g. checkpoints/mnist")
    parser.add_argument("--cache", action="store_true", help="write to the cache instead of the model's directory")
    args = parser.parse_args(argv)
    try:
        if not openvino.installed():
            raise ValueError("OpenVINO is not installed; pip install -r requirements-fast.txt installs it")
        checkpoint = open_checkpoint(args.model)
        content = backend.quantise(checkpoint, Request(), lambda line: print(line, flush=True))
        file = backend.cached_file(checkpoint) if args.cache else checkpoint.path / backend.FILE
        backend.write(checkpoint, content, file)
    except ValueError as error:
        print(f"quantise: {error}", file=sys.stderr)
        return 2
    print(f"{file}: " + (f"int8 is refused: {content['refused']}" if content["refused"] else "int8 is accepted"))
    return int(bool(content["refused"]))
