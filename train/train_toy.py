#!/usr/bin/env python
"""Train a toy, measure it, and write its card: a directory with config.json, weights.safetensors and README.md.

python train/train_toy.py shipped                       the three models under checkpoints/toy
python train/train_toy.py one --data spirals --out runs/spirals --steps 4000
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch

import project
from ddpm_app import paths
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import conditioned
from ddpm_app.diffusion.schedules import SCHEDULES, sigma_grid
from ddpm_app.files import write_atomically
from ddpm_app.toy import metrics
from ddpm_app.toy.checkpoint import save_toy
from ddpm_app.toy.classifier import denoising_classifier
from ddpm_app.toy.points import load
from ddpm_app.toy.shapes import ToyData, ToyDataError, split
from ddpm_app.toy.sweeps import Scale as Sizes
from ddpm_app.toy.sweeps import draw, floor
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_toys

GOOD = dict(schedule="cosine", row="v", lr=8e-3, steps=12_000, batch=256)
SHIPPED = {
    "moons": ("moons", dict(GOOD, label_dropout=1.0)),
    "moons-classes": ("moons", dict(GOOD, label_dropout=0.1)),
    "eight-gaussians": ("eight-gaussians", dict(GOOD, label_dropout=0.1)),
}


def measure(denoiser: Denoiser, data: ToyData, n: int = 2000) -> list[dict]:
    """Numbers with their protocol, in the data's own units, on points it was not trained on."""
    _, test = split(data, n)
    x, label = data.to_model(test.x), None
    if denoiser.network.config.num_classes:
        label = test.label  # what is measured is each point under its own class
    found = []

    def add(name: str, value: float, protocol: str, error: float | None = None) -> None:
        found.append({"name": name, "value": value, "error": error, "n": len(x), "protocol": protocol})

    protocol = "DDIM, 100 evaluations, uniform t, seed 0" + ("; the test points' own classes" if label is not None else "")
    samples = data.from_model(draw(conditioned(denoiser, label), sigma_grid(denoiser.schedule, 100), len(x), data.dim, 0, "ddim"))
    add("EMD", metrics.emd(samples, test.x), protocol)
    base = floor(data, test, Sizes(points=n))
    if base is not None:
        add("EMD, data against data", base, "another draw of the data")
    with torch.no_grad():
        bound = metrics.shift_units(metrics.bound(conditioned(denoiser, label), x, denoiser.schedule), data.dim, data.scale)
    ode = metrics.shift_units(metrics.nll_ode(conditioned(denoiser, label), x, denoiser.schedule), data.dim, data.scale)
    add("NLL, ODE", ode.mean, "nats a point, exact divergence, Runge-Kutta in 64 steps of ln sigma", ode.error)
    add("NLL, bound", bound.mean, "nats a point, Ho et al. eq. 5, 32 stratified terms a point", bound.error)
    if data.truth is not None:
        truth = metrics.nats(-data.truth.log_prob(test.x, 0.0, label))
        add("NLL, true density", truth.mean, "nats a point" + (", given the class" if label is not None else ""), truth.error)
    if label is not None:
        with torch.no_grad():
            seen, _ = denoising_classifier(denoiser, x, denoiser.schedule, 64)
        add("accuracy, training-free classifier", float((seen == label).double().mean()), "64 draws of (t, eps), t over the schedule")
        if data.truth is not None:
            bayes = data.truth.class_posterior(test.x).argmax(1) == label
            add("accuracy, Bayes", float(bayes.double().mean()), "the true density's posterior")
    return found


def card(name: str, data: ToyData, config: ToyTrainConfig, found: list[dict], seconds: float, command: str) -> str:
    c = config
    kind = f"class-conditional ({', '.join(data.classes)})" if c.label_dropout < 1 and data.classes else "unconditional"
    lines = [
        f"# {name}",
        "",
        f"A {kind} denoising diffusion model of the set `{data.name}`, {len(data)} points of {data.dim} numbers; for the 2-D lab.",
        f"An MLP of {c.depth} hidden layers of {c.width}; predicts {c.row}; {c.schedule} schedule, T = {c.T}; {c.steps} steps of {c.batch}",
        f"points, AdamW at {c.lr:g} falling to 0, EMA over {c.ema:g} of the run, seed {c.seed}: {seconds:.0f} s on "
        f"{torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)}.",
        "",
        f"    {command}",
        "",
        "| measure | value | protocol |",
        "|---|---|---|",
    ]
    for m in found:
        error = f" ± {m['error']:.3f}" if m["error"] else ""
        lines.append(f"| {m['name']} | {m['value']:.4f}{error} | n = {m['n']}; {m['protocol']} |")
    lines += ["", "All in the data's own units, on points that were not trained on. Licence: as the program's."]
    return "\n".join(lines) + "\n"


def make(name: str, recipe: dict, config: ToyTrainConfig, out: Path, command: str) -> None:
    data = load(**recipe)
    for note in data.notes:
        print(note)
    training, _ = split(data, 2000)
    trainer = ToyTrainer([config], training)
    print(f"{name}: {len(training)} points, {sum(p.numel() for p in trainer.parameters)} parameters", flush=True)
    for event in train_toys(trainer, every=max(config.steps // 20, 1)):
        print(f"step {event.step} of {event.steps}  loss {event.loss[0]:.4f}  {event.seconds:.1f} s", flush=True)
    denoiser = trainer.denoisers()[0]
    found = measure(denoiser, data)
    save_toy(out, denoiser, data, config, recipe, found)
    write_atomically(out / "README.md", card(name, data, config, found, trainer.seconds, command))
    for m in found:
        print(f"  {m['name']}: {m['value']:.4f}" + (f" +- {m['error']:.4f}" if m["error"] else ""), flush=True)
    print(out, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    shipped = verbs.add_parser("shipped", help="train the models that ship")
    shipped.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHIPPED)} (default: all)")
    shipped.add_argument("--out", default=str(paths.SHIPPED / "toy"))
    one = verbs.add_parser("one", help="train a model of your own")
    one.add_argument("--data", default="moons", help="a named set, a .csv or a .npy")
    one.add_argument("--n", type=int, default=10_000, help="points of a named set")
    one.add_argument("--noise", type=float, help="width of a named set")
    one.add_argument("--out", required=True)
    for f in dataclasses.fields(ToyTrainConfig):
        if f.name == "params":
            continue
        kind = {"int": int, "float": float, "str": str}[f.type]
        choices = tuple(SCHEDULES) if f.name == "schedule" else None
        one.add_argument("--" + f.name.replace("_", "-"), type=kind, choices=choices, help=f"default {f.default}")
    one.add_argument("--beta-start", type=float)
    one.add_argument("--beta-end", type=float)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    started = time.perf_counter()
    try:
        if args.verb == "shipped":
            for name in args.names or SHIPPED:
                if name not in SHIPPED:
                    raise ValueError(f"unknown model {name!r}; known: {', '.join(SHIPPED)}")
                data, settings = SHIPPED[name]
                recipe = {"name": data, "n": 10_000, "seed": 0}
                make(name, recipe, ToyTrainConfig(**settings), Path(args.out) / name, f"python train/train_toy.py shipped {name}")
        else:
            given = {f.name: v for f in dataclasses.fields(ToyTrainConfig) if (v := getattr(args, f.name, None)) is not None}
            params = {k: v for k in ("beta_start", "beta_end") if (v := getattr(args, k)) is not None}
            recipe = {"name": args.data, "n": args.n, "seed": 0} | ({"noise": args.noise} if args.noise is not None else {})
            command = f"python train/train_toy.py one --data {Path(args.data).name} --out {Path(args.out).name}"
            make(Path(args.out).name, recipe, ToyTrainConfig(**given, params=params), Path(args.out), command)
    except (ToyDataError, ValueError, FloatingPointError) as error:
        print(f"train_toy: {error}", file=sys.stderr)
        return 2
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    project.run(main)
