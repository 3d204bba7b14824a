"""The 2-D lab's times on this machine: the sweep over T in one computation and as a loop, and training on two moons."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from ddpm_app.toy.playground import Lab, PlaneRequest, Setup, trajectories
from ddpm_app.toy.shapes import make_data
from ddpm_app.toy.sweeps import DEFAULT_T, ExperimentEvent, Scale, steps
from ddpm_app.toy.training import ToyTrainConfig, train_one

LIVE_GAP = 0.25  # seconds between two plots of a training run, as on the page


def timed(events: Iterator[ExperimentEvent]) -> dict:
    """Seconds of a sweep: {"train", "measure" (EMD, bound and ODE likelihood), "seconds" in all, "networks": how many}."""
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
    """The same, and four times a second sample 1,000 particles from the network so far, as the page does."""
    config, setup, started, last = ToyTrainConfig(), Setup(make_data("moons")), time.perf_counter(), 0.0
    for event, trained in Lab().train(setup, config):
        if time.perf_counter() - last >= LIVE_GAP and event.step < event.steps:
            last = time.perf_counter()
            trajectories(trained, PlaneRequest("learned", "dpmpp-2m", 12, 1000))
    return time.perf_counter() - started


def bench_toy(seeds: int, training_steps: int, points: int, loop: bool, report: Callable[[str], None]) -> dict:
    """Measure the times of the 2-D lab. report: called with a line of text after each measurement.

    seeds: networks for each T. training_steps: of each network. points: in each set of an EMD. loop: also train and measure the
    networks one after the other. Returns a dict:
    threads                      of the processor
    moons alone, moons live      seconds
    one computation, loop        as `timed` returns them
    ratio, ratio of training     seconds of the loop / seconds of the one computation"""
    times = {"threads": torch.get_num_threads(), "moons alone": moons_alone(), "moons live": moons_live()}
    report(f"{times['threads']} threads")
    moons = f"two moons, {ToyTrainConfig().steps} steps: {times['moons alone']:.1f} s"
    report(f"{moons}; with live pictures: {times['moons live']:.1f} s")
    data, scale = make_data("moons"), dataclasses.replace(Scale(), points=points)
    for name in ("one computation", "loop") if loop else ("one computation",):
        times[name] = t = timed(steps(data, DEFAULT_T, range(seeds), scale, loop=name == "loop", steps=training_steps))
        parts = f"training {t['train']:.1f} s, measuring {t['measure']:.1f} s"
        report(f"sweep over T, {t['networks']} networks of {training_steps} steps, {name}: {t['seconds']:.1f} s ({parts})")
    if loop:
        times["ratio"] = times["loop"]["seconds"] / times["one computation"]["seconds"]
        times["ratio of training"] = times["loop"]["train"] / times["one computation"]["train"]
        report(f"the loop takes {times['ratio']:.1f} times as long; its training {times['ratio of training']:.1f} times")
    return times
