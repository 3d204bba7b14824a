"""train/measure_steering.py: what guidance and re-ranking do to a model's images, one row for each setting."""

from __future__ import annotations

import argparse
import json
import sys

from ddpm_app.evaluation.steering import SteeringPlan, measure_steering
from ddpm_app.flags import Parser, add_flags, read_flags
from ddpm_app.studio.studio import Studio


def main(argv: list[str] | None, description: str) -> int:
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="name of a class-conditional model in checkpoints/ or runs/")
    add_flags(parser, SteeringPlan)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--json", action="store_true", help="print JSON, one row per line")
    args = parser.parse_args(argv)
    try:
        plan = SteeringPlan(args.checkpoint, **read_flags(SteeringPlan, args))
        for row in measure_steering(Studio(device=args.device, backend="torch"), plan):
            print(json.dumps(row) if args.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    except ValueError as error:
        print(f"measure_steering: {error}", file=sys.stderr)
        return 2
    return 0
