"""python -m ddpm_app bench: the sampling speed of this machine, or with --train its training speed."""

from __future__ import annotations

import argparse
import json

from ddpm_app.bench import sampling, training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="of matrix products (default auto)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure; medians are printed (default 5)")
    parser.add_argument("--no-diffusers", action="store_true", help="leave out the comparison with diffusers")
    parser.add_argument("--quick", action="store_true", help="measure the smallest networks once; takes seconds, too short to compare")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--train", action="store_true", help="measure training here and in a plain PyTorch loop in float32, not sampling")
    parser.add_argument(
        "--presets", default="", help="with --train: networks, separated by commas (default tiny,small; on a GPU also ddpm)"
    )
    parser.add_argument("--batch", type=int, default=0, help="with --train: images per step (default: by network and device)")
    parser.add_argument("--compile", default="auto", choices=("auto", "yes", "no"), help="with --train: torch.compile (auto: on CUDA)")


def run(args: argparse.Namespace) -> int:
    if args.train:
        facts = training.bench_train(args.device, args.precision, args.rounds, args.presets, args.batch, args.compile, args.quick)
        text = training.table(facts)
    else:
        facts = sampling.bench_sampling(args.device, args.precision, args.rounds, args.quick, not args.no_diffusers)
        text = sampling.table(facts)
    print(json.dumps(facts, indent=1) if args.json else text)
    return 0
