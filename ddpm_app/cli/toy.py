"""python -m ddpm_app toy ...: the 2-D lab on the command line. Every experiment prints a table and writes it as CSV."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ddpm_app.bench import toy as toy_bench
from ddpm_app.checkpoints.checkpoint import CheckpointError
from ddpm_app.cli import toy_sample
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS, SCHEDULES
from ddpm_app.files import write_atomically
from ddpm_app.toy import checkpoint, experiments, plots, training
from ddpm_app.toy.points import load
from ddpm_app.toy.shapes import SHAPES, ToyData, ToyDataError
from ddpm_app.toy.sweeps import DEFAULT_T, Scale
from ddpm_app.toy.tables import numbers, over_seeds, pairs, to_csv, to_table


class UsageError(ValueError):
    """One sentence about the arguments."""


# what every count may be, by its name among the arguments; a list holds one or more of them
LIMITS = {"n": (2, 1_000_000), "seed": (0, 2**31 - 1), "threads": (1, 1024), "steps": (1, 1_000_000), "batch": (1, 65_536)}
LIMITS |= {"width": (8, 2048), "depth": (1, 8), "points": (10, 20_000), "nll_points": (10, 20_000), "bound_points": (10, 100_000)}
LIMITS |= {"seeds": (1, 1000), "evaluations": (1, 10_000), "draws": (1, 100_000), "T": (2, 100_000)}
LIMITS |= {"t": (0, 99_999), "label": (0, 999)}


def check(args: argparse.Namespace) -> None:
    """Raises UsageError naming the first argument out of its limits."""
    for name, value in vars(args).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, list) and not value:
            raise UsageError(f"{flag} is empty; at least one is needed")
        low, high = (1, LIMITS["n"][1]) if (args.verb, name) == ("sample", "n") else LIMITS.get(name, (0, 0))
        for v in value if isinstance(value, list) else [value]:
            if name in LIMITS and v is not None and not low <= v <= high:
                raise UsageError(f"{flag} is {v}; accepted is {low} to {high}")


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Register "toy" and its verbs with an argparse sub-parser object; the chosen verb's `run(args) -> int` is set as args.run."""
    toy = subparsers.add_parser("toy", help="the 2-D lab: diffusion where the truth is known", description=__doc__)
    add_arguments(toy)
    return toy


def add_arguments(toy: argparse.ArgumentParser) -> None:
    verbs = toy.add_subparsers(dest="verb", required=True, metavar="EXPERIMENT")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", default="moons", help=f"{', '.join(SHAPES)}, or a .csv or .npy file (default moons)")
    common.add_argument("--noise", type=float, help="width of the named data, in its own units")
    common.add_argument("--components", type=int, help="of the data set mixture: how many (default 3)")
    common.add_argument("--spread", type=float, help="of the data set mixture: how far apart they lie (default 1)")
    common.add_argument("--layout", type=int, help="of the data set mixture: seed of where they lie (default 0)")
    common.add_argument("--n", type=int, default=10_000, help="points in the data (default 10000)")
    common.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    common.add_argument("--csv", help="write the rows here")
    common.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    network = argparse.ArgumentParser(add_help=False)
    network.add_argument("--steps", type=int, help="training steps")
    network.add_argument("--batch", type=int, help="points a step")
    network.add_argument("--width", type=int, help="of the hidden layers")
    network.add_argument("--depth", type=int, help="number of hidden layers")
    network.add_argument("--lr", type=float, help="peak learning rate")
    network.add_argument("--row", help="what the network predicts: eps, v, x0, edm")
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("--points", type=int, default=2000, help="points in each set of an EMD (default 2000)")
    sizes.add_argument("--nll-points", type=int, default=500, help="test points of an ODE likelihood (default 500)")
    sizes.add_argument("--bound-points", type=int, default=1000, help="test points of a bound (default 1000)")
    seeds = argparse.ArgumentParser(add_help=False)
    seeds.add_argument("--seeds", type=int, default=3, help="networks trained for each setting (default 3)")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--checkpoint", help="a trained toy (default: train one now)")

    picture = argparse.ArgumentParser(add_help=False)
    picture.add_argument("--plot", help="write the plot here, as .svg")
    for name, (_, text) in experiments.EXPERIMENTS.items():
        sweep = name in ("steps", "schedules")
        parents = [common, network, picture] + ([sizes, seeds] if sweep else [model]) + ([sizes] if name == "likelihood" else [])
        p = verbs.add_parser(name, help=text, description=text, parents=parents)
        p.set_defaults(run=run)
        if name == "steps":
            p.add_argument("--T", type=numbers(int), default=list(DEFAULT_T), help="chain lengths, separated by commas")
            p.add_argument("--scaled", action="store_true", help="betas times 1000 / T, so that every chain ends in noise")
        elif name == "schedules":
            p.add_argument("--T", type=int, default=200, help="steps of every schedule (default 200)")
            p.add_argument("--pairs", type=pairs, help="start:end of beta for the linear ones, separated by commas")
        elif name == "solvers":
            p.add_argument("--evaluations", type=numbers(int), default=[2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100, 200])
            p.add_argument("--samplers", type=numbers(str), default=list(SAMPLERS), help="separated by commas")
            p.add_argument("--grid", default="karras", choices=tuple(GRIDS), help="one for all (default karras)")
            p.add_argument("--exact", action="store_true", help="the exact denoiser instead of a network")
            p.add_argument("--points", type=int, default=2000, help="points in each set of an EMD (default 2000)")
        elif name == "classes":
            p.add_argument("--scales", type=numbers(float), default=[float(s) for s in range(1, 11)], help="separated by commas")
            p.add_argument("--label", type=int, default=0, help="number of the class (default 0)")
            p.add_argument("--points", type=int, default=2000, help="samples for each scale (default 2000)")
            p.add_argument("--evaluations", type=int, default=50, help="of the denoiser a sample (default 50)")
        elif name == "classifier":
            p.add_argument("--draws", type=int, default=128, help="(t, eps) pairs a point and class (default 128)")
            p.add_argument("--t", type=int, help="one time for all draws instead of the whole schedule")
    p = verbs.add_parser("train", help="train a toy and save it", parents=[common, network])
    p.add_argument("--out", required=True, help="directory of the checkpoint")
    p.add_argument("--schedule", default="cosine", choices=tuple(SCHEDULES))
    p.add_argument("--T", type=int, default=1000, help="steps of the schedule (default 1000)")
    p.add_argument("--beta-start", type=float, help="of the linear and quadratic schedules")
    p.add_argument("--beta-end", type=float, help="of the linear and quadratic schedules")
    p.add_argument("--unconditional", action="store_true", help="leave the classes out")
    p.set_defaults(run=run)
    p = verbs.add_parser("sample", help="points from a trained toy; the same file, bit for bit, on every run")
    toy_sample.add_arguments(p)
    p.set_defaults(run=run)
    p = verbs.add_parser("bench", help="times of this machine: the sweep and the plain loop in one run, training two moons")
    toy_bench.add_arguments(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what was parsed; 0, or 2 with one sentence on standard error."""
    try:
        check(args)
        {"sample": toy_sample.sample, "train": _train, "bench": toy_bench.bench}.get(args.verb, _experiment)(args)
    except (ToyDataError, CheckpointError, UsageError, ValueError, FloatingPointError) as error:
        print(f"toy {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="toy", description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    return args.run(args)


# -- verbs ----------------------------------------------------------------------------------------------------------------


def _data(args) -> tuple[ToyData, dict]:
    recipe = {"name": args.data, "n": args.n, "seed": args.seed}
    recipe |= {k: v for k in ("noise", "components", "spread", "layout") if (v := getattr(args, k)) is not None}
    data = load(**recipe)
    for note in data.notes:
        print(note, file=sys.stderr)
    return data, recipe


def _training(args) -> dict:
    return {k: v for k in ("steps", "batch", "width", "depth", "lr", "row") if (v := getattr(args, k, None)) is not None}


def _model(args, data: ToyData) -> Denoiser | None:
    """The denoiser of --checkpoint, checked against the data it is to be measured on."""
    if not args.checkpoint:
        return None
    model = checkpoint.load_toy(args.checkpoint)
    if model.denoiser.network.config.dim != data.dim:
        raise UsageError(f"{model.name} is for points of {model.denoiser.network.config.dim} numbers, {data.name} has {data.dim}")
    if abs(model.scale / data.scale - 1) > 0.05 or float((model.center - data.center).abs().max()) > 0.05 * data.scale:
        raise UsageError(
            f"{model.name} was trained on other data ({model.data.get('name')}) than {data.name}: their centres or scales differ"
        )
    return model.denoiser


def _experiment(args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    data, _ = _data(args)
    settings, rows, pictures = _training(args), [], []
    if args.plot and Path(args.plot).suffix.lower() != ".svg":
        raise UsageError(f"{args.plot} must end in .svg")
    if args.verb in ("steps", "schedules"):
        scale = Scale(args.points, args.nll_points, args.bound_points, seed=args.seed)
        which = [args.seed + k for k in range(args.seeds)]
        if args.verb == "steps":
            events = experiments.steps(data, args.T, which, scale, args.scaled, **settings)
        else:
            extra = {"pairs": args.pairs} if args.pairs else {}
            events = experiments.schedules(data, T=args.T, seeds=which, scale=scale, **extra, **settings)
    elif args.verb == "solvers":
        model = _model(args, data)
        if args.exact or model is None:
            exact = data.exact() if args.exact else None
            config = training.ToyTrainConfig(seed=args.seed, **settings)
            model, schedule = exact or training.train_one(config, data), config.make_schedule()
        else:
            schedule = model.schedule
        events = experiments.solvers(
            model, schedule, data, args.evaluations, args.samplers, args.grid, min(1000, args.points), args.points, args.seed
        )
    elif args.verb == "classes":
        events = experiments.classes(
            data, _model(args, data), args.scales, args.label, args.points, args.evaluations, args.seed, **settings
        )
    elif args.verb == "classifier":
        events = experiments.classifier(data, _model(args, data), args.draws, args.t, seed=args.seed, **settings)
    else:
        scale = Scale(args.points, args.nll_points, args.bound_points, seed=args.seed)
        events = experiments.likelihood(data, _model(args, data), None, scale, args.seed, **settings)
    for event in events:
        rows += event.rows
        pictures += [event.picture] if event.picture else []
        print(f"\r\x1b[K{event.fraction:4.0%} {event.text}" if sys.stderr.isatty() else f"{event.fraction:4.0%} {event.text}",
              end="" if sys.stderr.isatty() else "\n", file=sys.stderr)  # fmt: skip
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.csv:
        write_atomically(Path(args.csv), to_csv(rows))
    if args.plot:
        drawn = [plots.regions(**p) for p in pictures if "grid" in p]
        write_atomically(Path(args.plot), plots.to_file(plots.plot(rows, args.verb) + drawn))
    print(to_table(over_seeds(rows, args.verb)))


def _train(args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    data, recipe = _data(args)
    params = {k: v for k in ("beta_start", "beta_end") if (v := getattr(args, k)) is not None}
    drop = {"label_dropout": 1.0} if args.unconditional or not data.classes else {}
    config = training.ToyTrainConfig(schedule=args.schedule, T=args.T, params=params, seed=args.seed, **drop, **_training(args))
    trainer = training.ToyTrainer([config], data)
    for event in training.train_toys(trainer, every=max(config.steps // 10, 1)):
        print(f"step {event.step} of {event.steps}  loss {event.loss[0]:.4f}  {event.seconds:.1f} s", file=sys.stderr)
    checkpoint.save_toy(args.out, trainer.denoisers()[0], data, config, recipe)
    print(args.out)


# -- tables ---------------------------------------------------------------------------------------------------------------


if __name__ == "__main__":
    sys.exit(main())
