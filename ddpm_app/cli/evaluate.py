"""python -m ddpm_app evaluate: measure a checkpoint or a set of images, with the protocol."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict

from ddpm_app.checkpoints.measurements import Measurement, store, stored_measurements
from ddpm_app.cli import agreement
from ddpm_app.cli.progress import ProgressLine
from ddpm_app.evaluation.evaluate import evaluate
from ddpm_app.evaluation.features import KINDS
from ddpm_app.evaluation.plan import ALIASES, BITS, METRICS, Plan, parse_metrics, sample_requests
from ddpm_app.evaluation.samples import sample_share
from ddpm_app.files import plain
from ddpm_app.flags import Parser, add_flags, default_of, read_flags, settings_of
from ddpm_app.images.sets import Progress
from ddpm_app.studio import backend
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.training.distributed import join

PLAN_FLAGS = tuple(settings_of(Plan))
SAMPLING_FLAGS = ("seed", "sampler", "evaluations", "guidance", "label", "grid", "eta", "churn")  # fields of Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", help="name in checkpoints/ or runs/, or a directory")
    parser.add_argument(
        "--metrics", default="bpd-bound", help=f"separated by commas: {', '.join((*METRICS, *ALIASES))} (default bpd-bound)"
    )
    parser.add_argument(
        "--features", default="", help=f"networks that distances are measured in: {', '.join(KINDS)} (default: those that ship)"
    )
    parser.add_argument("--n", type=int, help="samples per set (default 1000), or test images for bits per dimension (default 128)")
    agreement.add_sampling_flags(parser, SAMPLING_FLAGS, label="all")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), help="default auto; fp32 if all metrics are bits per dimension")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--backend", default="torch", choices=backend.BACKENDS, help=f"{backend.HELP} (default torch)")
    parser.add_argument("--sweep", default="", help="guidance, evaluations or sampler, also guidance=1,2,4: distance against agreement")
    parser.add_argument(
        "--preset", choices=("agreement",), help="agreement with the requested label, by a classifier, beside real images; --n is per class"
    )
    add_flags(parser, Plan, PLAN_FLAGS, **{name: default_of(Plan, name) for name in PLAN_FLAGS})
    agreement.add_reference(parser)
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON, all their parts")
    parser.add_argument("--write", action="store_true", help="append to the checkpoint's metrics.json")


def plan_of(args: argparse.Namespace, studio: Studio) -> Plan:
    fields = {**read_flags(Request, args, SAMPLING_FLAGS), "n": 1000 if args.n is None else args.n}
    request = studio.request(args.checkpoint, **fields) if args.checkpoint else Request(**fields)  # none for given images
    return Plan(
        request,
        parse_metrics(args.metrics),
        tuple(f.strip() for f in args.features.split(",") if f.strip()),
        **read_flags(Plan, args, PLAN_FLAGS),
        bits_n=128 if args.n is None else args.n,
    )


def run(args: argparse.Namespace) -> int:
    if not args.checkpoint and not args.images:
        raise ValueError("give a --checkpoint to sample from, or --images to measure")
    if args.write and not args.checkpoint:
        raise ValueError("--write needs the --checkpoint whose metrics.json is meant")
    if args.preset:
        return run_preset(args)
    if args.sweep and (args.write or args.seeds > 1 or args.images):
        raise ValueError("--sweep samples a checkpoint anew at each of its points and only prints: no --write, --seeds or --images")
    bits_only = set(parse_metrics(args.metrics)) <= set(BITS) and not args.sweep  # a curve samples images for any --metrics
    precision = args.precision or ("fp32" if bits_only else "auto")
    world = join(args.device)
    studio = Studio(device=args.device, precision=precision, backend=args.backend)
    plan = plan_of(args, studio)
    if args.write:
        stored_measurements(studio.checkpoint(args.checkpoint))  # a damaged file is an error before anything is measured
    shared = plan.pictures and not plan.images and not args.sweep
    sample_share(studio, sample_requests(plan) if shared else [], world)
    world.close()  # only rank 0 continues
    if not world.main:
        return 0
    if args.sweep:
        return run_sweep(studio, plan, args)
    measured, refusals, progress = [], 0, ProgressLine()
    for event in evaluate(studio, plan):
        if isinstance(event, Progress):
            progress.show(event)
            continue
        progress.clear()
        if isinstance(event, Measurement):
            measured.append(event)
            if not args.json:
                print(line(event), flush=True)
            if args.write:
                store(studio.checkpoint(args.checkpoint), event)
        else:
            refusals += 1
            print(f"{event.metric}: not measured: {event.reason}", file=sys.stderr, flush=True)
    progress.clear()
    if args.json:
        print(json.dumps([plain(asdict(m)) for m in measured], indent=1))
    elif measured:
        print(json.dumps(plain(measured[0].protocol)))
    if plan.pictures and not plan.images:
        print(f"sampling {progress.sampling:.1f} s, everything else {progress.rest:.1f} s", file=sys.stderr)
    if args.write and measured:
        print(f"stored in {studio.checkpoint(args.checkpoint).path / 'metrics.json'}", file=sys.stderr)
    return 2 if refusals and not measured else 0


def run_preset(args: argparse.Namespace) -> int:
    """Agreement with the labels. Raises ValueError for a flag that the preset does not use."""
    parser = Parser()
    add_arguments(parser)
    for name, value in vars(parser.parse_args([])).items():
        if name not in ("preset", *agreement.FLAGS) and getattr(args, name) != value:
            raise ValueError(f"--preset agreement does not use --{name}; it uses --{', --'.join(agreement.FLAGS)}")
    return agreement.run(args)


def run_sweep(studio: Studio, plan: Plan, args: argparse.Namespace) -> int:
    """Print each point of the trade-off curve."""
    from ddpm_app.evaluation.tradeoff import parse_sweep, sweep

    along, progress, rows = parse_sweep(args.sweep), ProgressLine(), []
    for event in sweep(studio, plan, along):
        if isinstance(event, Progress):
            progress.show(event)
            continue
        progress.clear()
        names = {"reason": "says"}  # the key in the JSON
        rows.append({names.get(k, k): v for k, v in event._asdict().items() if k not in ("images", "request")})
        if not args.json:
            values = {event.name: event.distance, "agreement": event.agreement, "confidence": event.confidence}
            shown = "  ".join(f"{k} {'not measured' if v is None else format(v, '.4f')}" for k, v in values.items())
            print(f"{along.axis} {event.value}   {shown}" + (f"   ({event.reason})" if event.reason else ""), flush=True)
    print(json.dumps(rows if args.json else rows[-1]["protocol"], indent=1 if args.json else None))
    return 0


def line(m: Measurement) -> str:
    """A measurement as text: name, value, error, main parts, comparability."""
    error = f" +- {m.error:.4f}" if math.isfinite(m.error) else ""
    real = m.detail.get("real test images")
    parts = [f"{k} {v:.4f}" for k, v in m.detail.items() if isinstance(v, float) and math.isfinite(v) and k != "real test images"]
    parts += [f"real test images {real:.4f}"] if isinstance(real, float) else []
    parts += [f"n = {m.protocol['n']:,}"] + ([m.detail["note"]] if "note" in m.detail else [])
    unit = " bits/dim" if m.name in BITS else ""
    answer = m.protocol.get("comparable to the literature", "")
    return f"{m.name} {m.value:.4f}{error}{unit}   {'  '.join(parts)}" + (f"\n  comparable to the literature: {answer}" if answer else "")
