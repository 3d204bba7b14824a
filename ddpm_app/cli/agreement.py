"""`python -m ddpm_app evaluate --preset agreement` and train/judge.py: agreement with the labels, beside real images."""

from __future__ import annotations

import argparse
import json

from ddpm_app.checkpoints.measurements import store, stored_measurements
from ddpm_app.cli.progress import ProgressLine
from ddpm_app.evaluation.agreement import agreement_measurements, agreement_plan, agreement_report
from ddpm_app.evaluation.samples import sample_share
from ddpm_app.flags import add_flags, read_flags
from ddpm_app.studio import backend
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.training.distributed import join

SAMPLING_FLAGS = ("guidance", "sampler", "evaluations", "grid", "seed")  # fields of Request
FLAGS = ("checkpoint", *SAMPLING_FLAGS, "n", "classifier", "against", "reference", "device", "precision", "backend", "write", "json")
N = 100


def add_sampling_flags(parser: argparse.ArgumentParser, names: tuple[str, ...], **defaults) -> None:
    """Flags for these fields of Request, None where they are not given: then the model's default holds, or the one in `defaults`."""
    add_flags(parser, Request, names, **defaults)


def add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", type=int, default=5000, help="real images of FD-classifier's reference, at most (default 5000)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of train/judge.py; evaluate has all of them, too, --data as --against."""
    parser.add_argument("checkpoint", help="directory of a class-conditional diffusion model")
    parser.add_argument("--classifier", default="", help="directory of the classifier (default checkpoints/classifiers/<the model's data>)")
    parser.add_argument(
        "--data", dest="against", default="", help="real images: a named set's test split, a folder or an .npz (default: the model's data)"
    )
    parser.add_argument("--n", type=int, default=N, help=f"images per class (default {N})")
    add_sampling_flags(parser, SAMPLING_FLAGS)
    add_reference(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--backend", default="torch", choices=backend.BACKENDS, help=f"{backend.HELP} (default torch)")
    parser.add_argument("--write", action="store_true", help="append the numbers to the model's metrics.json")
    parser.set_defaults(precision=None)


def run(args: argparse.Namespace) -> int:
    world = join(args.device)
    studio = Studio(device=args.device, precision=args.precision or "auto", backend=args.backend)
    request = studio.request(args.checkpoint, **read_flags(Request, args, SAMPLING_FLAGS), n=N if args.n is None else args.n)
    plan = agreement_plan(studio, request, args.classifier, args.against, args.reference)
    if args.write:
        stored_measurements(plan.checkpoint)  # refuses a damaged file before the work
    sample_share(studio, [plan.request], world, plan.labels.numpy())
    world.close()
    if not world.main:
        return 0
    report = ProgressLine().drain(agreement_report(studio, plan))
    if args.write:
        store(plan.checkpoint, *agreement_measurements(report))
    print(json.dumps(report, indent=1))
    return 0
