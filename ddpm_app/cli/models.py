"""python -m ddpm_app models: list the checkpoints in checkpoints/ and runs/."""

from __future__ import annotations

import argparse
import json
import sys

from ddpm_app.checkpoints.checkpoint import find
from ddpm_app.checkpoints.facts import model_facts
from ddpm_app.paths import model_roots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    refused: dict[str, str] = {}
    models = [model_facts(checkpoint) for checkpoint in find(model_roots(), refused).values()]
    for reason in refused.values():
        print(f"not readable: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps(models, indent=1))
        return 0
    for m in models:
        size, seen = f"{m['parameters'] / 1e6:6.2f} M", f"{m['images_seen']:>11,} images"
        print(f"{m['name']:24} {m['data']:10} {m['row']}/{m['schedule']:8} {size} {seen}  {m['place']}")
    if not models:
        print("there are no checkpoints in checkpoints/ and runs/")
    return 0
