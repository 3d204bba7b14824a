"""python -m ddpm_app toy bench: what the lab promises in seconds, measured on this machine in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator

import torch

from ddpm_app.toy.playground import Lab, PlaneRequest, Setup, trajectories
from ddpm_app.toy.shapes import make_data
from ddpm_app.toy.sweeps import DEFAULT_T, SWEEP, Progress, Scale, steps
from ddpm_app.toy.training import ToyTrainConfig, train_one

LIVE_GAP = 0.25  # seconds between two pictures of a training, as on the page


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Times the sweep of NLL and EMD against T as one computation and as the plain loop over its networks, both whole in this one run, "
        "and the training of two moons, alone and with the pictures that the page shows meanwhile."
    )
    p.add_argument("--seeds", type=int, default=3, help="networks for each T (default 3)")
    p.add_argument("--steps", type=int, default=SWEEP["steps"], help=f"training steps of each (default {SWEEP['steps']})")
    p.add_argument("--points", type=int, default=Scale.points, help=f"points in each set of an EMD (default {Scale.points})")
    p.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    p.add_argument("--no-loop", action="store_true", help="leave out the plain loop, which takes minutes")
    p.add_argument("--json", action="store_true", help="print JSON")


def timed(events: Iterator[Progress]) -> dict:
    """Seconds of a sweep: training, measuring (EMD, bound and ODE likelihood of every network) and in all; networks: how many."""
    started, trained, rows = time.perf_counter(), 0.0, 0
    for event in events:
        rows += len(event.rows)
        if not event.rows:
            trained = time.perf_counter() - started
    total = time.perf_counter() - started
    return {"train": trained, "measure": total - trained, "seconds": total, "networks": rows}


def moons_alone() -> float:
    """Seconds to train the lab's default network on two moons."""
    data, started = make_data("moons"), time.perf_counter()
    train_one(ToyTrainConfig(), data)
    return time.perf_counter() - started


def moons_live() -> float:
    """The same as the page does it: with a thousand particles sampled four times a second on the way."""
    config, setup, started, last = ToyTrainConfig(), Setup(make_data("moons")), time.perf_counter(), 0.0
    for event, trained in Lab().train(setup, config):
        if time.perf_counter() - last >= LIVE_GAP and event.step < event.steps:
            last = time.perf_counter()
            trajectories(trained, PlaneRequest("learned", "dpmpp-2m", 12, 1000))
    return time.perf_counter() - started


def bench(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)

    def say(text: str) -> None:
        print(text, file=sys.stdout if not args.json else sys.stderr, flush=True)

    scale, seeds, data = dataclasses.replace(Scale(), points=args.points), range(args.seeds), make_data("moons")
    found = {"threads": torch.get_num_threads(), "moons alone": moons_alone(), "moons live": moons_live()}
    say(f"{found['threads']} threads")
    steps_of = ToyTrainConfig().steps
    say(f"two moons, {steps_of} steps: {found['moons alone']:.1f} s; with live pictures: {found['moons live']:.1f} s")
    sides = [("one computation", False)] + ([] if args.no_loop else [("loop", True)])
    for name, loop in sides:
        found[name] = t = timed(steps(data, DEFAULT_T, seeds, scale, loop=loop, steps=args.steps))
        parts = f"training {t['train']:.1f} s, measuring {t['measure']:.1f} s"
        say(f"sweep over T, {t['networks']} networks of {args.steps} steps, {name}: {t['seconds']:.1f} s ({parts})")
    if not args.no_loop:
        found["ratio"] = found["loop"]["seconds"] / found["one computation"]["seconds"]
        found["ratio of training"] = found["loop"]["train"] / found["one computation"]["train"]
        say(f"the loop takes {found['ratio']:.1f} times as long; its training {found['ratio of training']:.1f} times")
    if args.json:
        print(json.dumps(found))
