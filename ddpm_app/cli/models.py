"""python -m ddpm_app models: the checkpoints found."""

from __future__ import annotations

import argparse
import json
import sys


def add_parser(commands) -> None:
    p = commands.add_parser("models", help="the checkpoints found", description="List the checkpoints in checkpoints/ and runs/.")
    p.add_argument("--json", action="store_true", help="as JSON")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ddpm_app.studio.exports import model_facts
    from ddpm_app.studio.studio import Studio

    studio = Studio(device="cpu")
    found = [model_facts(c) for c in studio.checkpoints().values()]
    for reason in studio.unreadable().values():
        print(f"not readable: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for m in found:
            size, seen = f"{m['parameters'] / 1e6:6.2f} M", f"{m['images_seen']:>11,} images"
            print(f"{m['name']:24} {m['data']:10} {m['row']}/{m['schedule']:8} {size} {seen}  {m['place']}")
        if not found:
            print("no checkpoints found")
    return 0
