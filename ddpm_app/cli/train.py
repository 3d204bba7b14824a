"""Train a U-Net for a budget of minutes or images, and write a checkpoint directory.

    python train/train_unet.py --data mnist --preset tiny --minutes 30 --out runs/mnist
    python train/train_unet.py --data cifar10 --preset small --prediction-type v --schedule cosine --minutes 25 --out runs/cifar10

The directory holds config.json, weights.safetensors (the EMA), log.jsonl, samples/*.png, snapshots/ and state.safetensors, from
which --resume continues with the same steps. Ctrl-C saves and stops. Runs in neighbouring folders use a device one after the
other. `accelerate launch train/train_unet.py ...` trains the same batches on several GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ddpm_app.diffusion.names import rename_row
from ddpm_app.flags import Parser, add_flags, default_of, flag, read_flags
from ddpm_app.training import distributed, probe, recorder, trackers
from ddpm_app.training.config import CHANGEABLE, RECIPES, TrainConfig
from ddpm_app.training.process import DiskFull, Follower, RunProcess, explain_full, is_full


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, TrainConfig)
    add = parser.add_argument
    add("--recipe", choices=tuple(RECIPES), help="named settings; a flag of their own overrides each of them")
    add("--out", help="directory of the run (needed unless --resume names one)")
    add("--resume", help="auto: continue the run in --out, or start it if it has no saved state; or the directory of a run")
    add("--init", default="", help="start with the weights of this checkpoint or snapshot directory (same preset and classes)")
    add("--now", action="store_true", help="train at once, even while another run beside --out trains on the device")
    add("--probe", action="store_true", help="do not train: measure this machine for about 15 s and print as JSON what fits the budget")
    add("--max-seconds", type=float, default=math.inf, help="save and stop after this many seconds of wall-clock time")
    add("--every", type=int, default=50, help="steps between log lines (default 50)")
    add("--every-seconds", type=float, default=5.0, help="seconds between log lines, if that is sooner (default 5)")
    add(
        "--validations", "--marks", type=int, default=20,
        help="validations over the budget, each with a sample grid and a saved state (default 20)",
    )  # fmt: skip
    add("--snapshots", type=int, default=20, help="snapshots over the budget; from 10 on, two early ones are added (default 20)")
    add("--track", default="", help="trackers beside TensorBoard: wandb, trackio, or both separated by a comma")
    return parser


def parse(argv: list[str] | None) -> tuple[TrainConfig, argparse.Namespace]:
    """(the run's settings, the other flags). args.state is the file to resume from, or None. Exits with code 2 for wrong flags."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.resume and args.resume != "auto":
        args.out = args.out or args.resume
    source = Path(args.out or "" if args.resume == "auto" else args.resume or "")  # the run to continue
    args.state = source / "state.safetensors" if args.resume else None
    try:
        given = read_flags(TrainConfig, args)
        settings = {**(RECIPES[args.recipe] if args.recipe else {}), **given}
        check_numbers(args)
        if not args.out and not args.probe:
            raise ValueError("--out is needed")
        if os.environ.get("RANK", "0") == "0":  # of several processes, the others start later and would see this one's files
            check_folders(args, source)
        if args.state and args.state.is_file() and (source / "config.json").is_file():
            settings = resumed_settings(source, settings, given)
        settings.setdefault("lr", default_of(TrainConfig, "lr", settings))
        return TrainConfig(**settings), args
    except (ValueError, TypeError) as error:
        parser.error(str(error))


def check_numbers(args: argparse.Namespace) -> None:
    for name, minimum in (("max_seconds", 0), ("every_seconds", 0), ("every", 1), ("validations", 0), ("snapshots", 0)):
        value, above = getattr(args, name), isinstance(getattr(args, name), float)
        if not (value > minimum if above else value >= minimum):  # NaN included
            raise ValueError(f"{flag(name)} is {value}; a number {'above' if above else 'from'} {minimum} is accepted")


def check_folders(args: argparse.Namespace, source: Path) -> None:
    """Raise ValueError if there is nothing to resume in `source`, or if --out holds a model that the run would replace."""
    if args.resume and args.resume != "auto" and not args.state.is_file():
        raise ValueError(f"--resume: {source} holds no state.safetensors; --resume auto starts a new run where there is none")
    if args.probe or not (Path(args.out) / "weights.safetensors").is_file():
        return
    if not args.resume or source.resolve() != Path(args.out).resolve():
        raise ValueError(f"{args.out} already holds a model; --resume auto continues it, another --out starts a new run")
    if not args.state.is_file() and not (Path(args.out) / "job.json").is_file():  # a shipped model, not a run killed at its start
        raise ValueError(
            f"{args.out} holds a model but no state to resume from; --init {args.out} starts a run in another --out with its weights"
        )


def resumed_settings(source: Path, settings: dict, given: dict) -> dict:
    """The settings stored by the run in `source`. The flags may change its budget, device, precision and compile; nothing else."""
    stored = source / "config.json"
    try:
        previous = rename_row(json.loads(stored.read_text())["training"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"--resume: {stored} is damaged ({error})") from error
    previous = {"averages": "none", **previous}  # older runs kept no averages
    changed = [k for k, v in settings.items() if k not in CHANGEABLE and k in previous and previous[k] != v]
    if changed:
        changes = ", ".join(f"{flag(k)} {previous[k]}, not {settings[k]}" for k in changed)
        raise ValueError(f"--resume: {source} was started with {changes}; --init starts a new run with its weights")
    settings = {**previous, **settings}
    if "minutes" in given or "images" in given:  # one budget replaces the other
        settings |= {"minutes": given.get("minutes", 0.0), "images": given.get("images", 0)}
    return settings


def measure_of(config: TrainConfig) -> Callable | None:
    """What is measured at the validations of a model tuned to few evaluations: nothing for data without a classifier."""
    if not config.teacher:
        return None
    from ddpm_app.evaluation.agreement import few_evaluations  # imported here: the other runs do not need it

    try:
        return few_evaluations(config.data)
    except ValueError as error:
        print(f"train_unet: the samples are not measured: {error}", file=sys.stderr)
        return None


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: finished, or stopped and saved; 2: wrong settings or files; 3: the loss is not a number; 4: the disk is full."""
    config, args = parse(argv)
    signals = []
    try:
        trackers.check(args.track)
        world = distributed.join(config.device)
        config = world.same(config)
        world.slice(config.batch)
        if args.probe:
            print(json.dumps(probe.plan(config)))
            return 0
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda number, _: signals.append(number))
        folder, command = Path(args.out), sys.argv[1:] if argv is None else argv
        run_process = RunProcess(folder, command, dataclasses.asdict(config)) if world.main else Follower(folder)
    except (ValueError, OSError) as error:
        print(f"train_unet: {error}", file=sys.stderr)
        return 2
    chosen = {f.name: getattr(args, f.name) for f in dataclasses.fields(recorder.RunOptions) if hasattr(args, f.name)}
    options = recorder.RunOptions(**chosen, measure=measure_of(config))
    started = time.perf_counter()  # waiting for the device and pauses count towards --max-seconds

    def should_stop() -> bool:
        return bool(signals) or time.perf_counter() - started > args.max_seconds

    try:
        run_process.end(recorder.run(config, options, run_process, should_stop, world))
        world.close()
        return 0
    except (ValueError, FloatingPointError, DiskFull) as error:
        run_process.end("failed", str(error))
        print(f"train_unet: {error}", file=sys.stderr)
        return {FloatingPointError: 3, DiskFull: 4}.get(type(error), 2)
    except Exception as error:
        if not world.main:  # most likely because rank 0 has failed and has printed its error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            print(f"train_unet: process {world.rank} ends because another process has ended ({reason})", file=sys.stderr)
            return 1
        run_process.end("failed", str(explain_full(folder, 2**20)) if is_full(error) else f"{type(error).__name__}: {error}")
        raise
    finally:
        run_process.close()
