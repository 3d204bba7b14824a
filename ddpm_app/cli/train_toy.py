"""The arguments of train/train_toy.py."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from ddpm_app.flags import add_flags, read_flags
from ddpm_app.paths import SHIPPED as SHIPPED_FOLDER
from ddpm_app.toy.release import SHIPPED, release, release_shipped
from ddpm_app.toy.training import ToyTrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    shipped = verbs.add_parser("shipped", help="train the models that ship")
    shipped.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SHIPPED)} (default: all)")
    shipped.add_argument("--out", default=str(SHIPPED_FOLDER / "toy"))
    one = verbs.add_parser("one", help="train a model of your own")
    one.add_argument("--data", default="moons", help="a named set, a .csv or a .npy")
    one.add_argument("--n", type=int, default=10_000, help="points of a named set")
    one.add_argument("--noise", type=float, help="width of a named set")
    one.add_argument("--out", required=True)
    add_flags(one, ToyTrainConfig)
    one.add_argument("--beta-start", type=float, help="first beta of the linear and quadratic schedules")
    one.add_argument("--beta-end", type=float, help="last beta of the linear and quadratic schedules")


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    report, out = partial(print, flush=True), Path(args.out)
    if args.verb == "shipped":
        return release_shipped(args.names, out, report)
    params = {k: v for k in ("beta_start", "beta_end") if (v := getattr(args, k)) is not None}
    recipe = {"name": args.data, "n": args.n, "seed": 0} | ({"noise": args.noise} if args.noise is not None else {})
    command = f"python train/train_toy.py one --data {Path(args.data).name} --out {out.name}"
    release(out, recipe, ToyTrainConfig(**read_flags(ToyTrainConfig, args), params=params), command, report)
