"""python -m ddpm_app toy: the 2-D lab on the command line. Every experiment prints a table and can write it as CSV."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ddpm_app.bench.toy import bench_toy
from ddpm_app.cli import toy_sample
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS
from ddpm_app.files import write_atomically
from ddpm_app.flags import Parser, Setting, add_flags, check_value, flag, read_flags, settings_of
from ddpm_app.toy import checkpoint, experiments, plots, training
from ddpm_app.toy.points import load
from ddpm_app.toy.shapes import SHAPES, ToyData
from ddpm_app.toy.sweeps import DEFAULT_T, SWEEP, ExperimentEvent, Scale
from ddpm_app.toy.tables import parse_numbers, parse_pairs, summarise, to_csv, to_table

# the fields of ToyTrainConfig that every training command has as flags
NETWORK = ("steps", "batch", "width", "depth", "lr", "prediction_type")
SIZES = ("points", "nll_points", "bound_points")  # the fields of Scale that are flags
# What each argument accepts. An argument that is a list holds one or more of these values.
ACCEPTED = settings_of(Scale) | settings_of(training.ToyTrainConfig)
ACCEPTED |= {"n": Setting("", low=2, high=1_000_000), "T": Setting("", low=2, high=100_000), "t": Setting("", low=0, high=99_999)}
ACCEPTED |= {"threads": Setting("", low=1, high=1024), "seeds": Setting("", low=1, high=1000), "label": Setting("", low=0, high=999)}
ACCEPTED |= {"evaluations": Setting("", low=1, high=10_000), "draws": Setting("", low=1, high=100_000)}
SAMPLES = Setting("", low=1, high=1_000_000)  # --n of the command sample


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for the first argument that is not accepted."""
    accepted = ACCEPTED | ({"n": SAMPLES} if args.verb == "sample" else {})
    for name, value in vars(args).items():
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError(f"{flag(name)} is empty; at least one value is needed")
        for v in values:
            if name in accepted and v is not None:
                check_value(flag(name), v, type(v).__name__, accepted[name])


def as_type(parse: Callable[[str], list]) -> Callable[[str], list]:
    """An argparse type whose error is the text of parse's ValueError."""

    def convert(text: str) -> list:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="EXPERIMENT")
    lists = {kind: as_type(lambda text, kind=kind: parse_numbers(text, kind)) for kind in (int, float, str)}
    threads = Parser(add_help=False)
    threads.add_argument("--threads", type=int, help="processor threads (default: PyTorch's choice)")
    common = Parser(add_help=False, parents=[threads])
    common.add_argument("--data", default="moons", help=f"{', '.join(SHAPES)}, or a .csv or .npy file (default moons)")
    common.add_argument("--noise", type=float, help="width of a named data set, in its units")
    common.add_argument("--components", type=int, help="number of components of the data set mixture (default 3)")
    common.add_argument("--spread", type=float, help="standard deviation of the means of the data set mixture (default 1)")
    common.add_argument("--layout", type=int, help="seed of the means of the data set mixture (default 0)")
    common.add_argument("--n", type=int, default=10_000, help="points in the data (default 10000)")
    common.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default 0)")
    common.add_argument("--csv", help="write the rows to this .csv file")
    sizes = Parser(add_help=False)
    add_flags(sizes, Scale, SIZES)
    seeds = Parser(add_help=False)
    seeds.add_argument("--seeds", type=int, default=3, help="networks trained for each setting (default 3)")
    model = Parser(add_help=False)
    model.add_argument("--checkpoint", help="a trained toy (default: train one now)")
    picture = Parser(add_help=False)
    picture.add_argument("--plot", help="write the plot to this .svg file")
    for name, (_, text) in experiments.EXPERIMENTS.items():
        sweep = name in ("steps", "schedules")
        parents = [common, picture] + ([sizes, seeds] if sweep else [model]) + ([sizes] if name == "likelihood" else [])
        p = verbs.add_parser(name, help=text, description=text, parents=parents)
        defaults = SWEEP if sweep else experiments.CLASSIFIER if name == "classifier" else {}
        add_flags(p, training.ToyTrainConfig, NETWORK, **{k: v for k, v in defaults.items() if k in NETWORK})
        if name == "steps":
            p.add_argument("--T", type=lists[int], default=list(DEFAULT_T), help="chain lengths, separated by commas")
            p.add_argument("--scaled", action="store_true", help="multiply the betas by 1000 / T, so that every chain ends in noise")
        elif name == "schedules":
            p.add_argument("--T", type=int, default=200, help="steps of every schedule (default 200)")
            p.add_argument("--pairs", type=as_type(parse_pairs), help="start:end of beta for each linear schedule, separated by commas")
        elif name == "solvers":
            p.add_argument("--evaluations", type=lists[int], default=list(experiments.EVALUATIONS))
            p.add_argument("--samplers", type=lists[str], default=list(GENERAL_SAMPLERS), help="separated by commas")
            p.add_argument("--grid", default="karras", choices=tuple(GRIDS), help="grid of noise levels, for all samplers (default karras)")
            p.add_argument("--exact", action="store_true", help="use the exact denoiser instead of a network")
            add_flags(p, Scale, ["points"], points=Scale.points)
        elif name == "classes":
            p.add_argument("--scales", type=lists[float], default=[float(s) for s in range(1, 11)], help="separated by commas")
            p.add_argument("--label", type=int, default=0, help="number of the class (default 0)")
            p.add_argument("--points", type=int, default=2000, help="samples for each scale (default 2000)")
            p.add_argument("--evaluations", type=int, default=50, help="evaluations of the denoiser for each sample (default 50)")
        elif name == "classifier":
            p.add_argument("--draws", type=int, default=128, help="(t, eps) pairs for each point and class (default 128)")
            p.add_argument("--t", type=int, help="one time for all draws instead of the whole schedule")
    p = verbs.add_parser("train", help="train a toy and save it", parents=[common])
    p.add_argument("--out", required=True, help="directory of the checkpoint")
    add_flags(p, training.ToyTrainConfig, ("schedule", "T", *NETWORK))
    p.add_argument("--beta-start", type=float, help="first beta of the linear and quadratic schedules")
    p.add_argument("--beta-end", type=float, help="last beta of the linear and quadratic schedules")
    p.add_argument("--unconditional", action="store_true", help="train without classes")
    p = verbs.add_parser("sample", help="sample points from a trained toy; every run writes the same file, bit for bit")
    toy_sample.add_arguments(p)
    p = verbs.add_parser(
        "bench", help="measure this machine: a sweep in one computation and as a loop; training on two moons", parents=[threads]
    )
    p.description = (
        "Times the sweep of NLL and EMD against T twice in one run: in one computation, and as a loop over its networks. "
        "Also times training on two moons, with and without the live plots of the page."
    )
    p.add_argument("--seeds", type=int, default=3, help="networks for each T (default 3)")
    p.add_argument("--steps", type=int, default=SWEEP["steps"], help=f"training steps of each (default {SWEEP['steps']})")
    add_flags(p, Scale, ["points"], points=Scale.points)
    p.add_argument("--no-loop", action="store_true", help="leave out the loop, which takes minutes")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    check(args)
    if getattr(args, "threads", None):
        torch.set_num_threads(args.threads)
    try:
        {"sample": toy_sample.run, "train": _train, "bench": _bench}.get(args.verb, _experiment)(args)
    except FloatingPointError as error:  # training diverged
        raise ValueError(str(error)) from error
    return 0


def _data(args) -> tuple[ToyData, dict]:
    """The data, and the arguments of toy.points.load that gave them."""
    recipe = {"name": args.data, "n": args.n, "seed": args.seed}
    recipe |= {k: v for k in ("noise", "components", "spread", "layout") if (v := getattr(args, k)) is not None}
    data = load(**recipe)
    for note in data.notes:
        print(note, file=sys.stderr)
    return data, recipe


def _settings(args) -> dict:
    """The fields of ToyTrainConfig that were given as flags."""
    return read_flags(training.ToyTrainConfig, args, NETWORK)


def _scale(args) -> Scale:
    return Scale(**read_flags(Scale, args, SIZES), seed=args.seed)


def _model(args, data: ToyData) -> Denoiser | None:
    """The denoiser of --checkpoint. Raises ValueError if it was trained on other data."""
    if not args.checkpoint:
        return None
    model = checkpoint.load_toy(args.checkpoint)
    if model.denoiser.network.config.dim != data.dim:
        raise ValueError(f"{model.name} needs points of {model.denoiser.network.config.dim} numbers; those of {data.name} have {data.dim}")
    if abs(model.scale / data.scale - 1) > 0.05 or float((model.center - data.center).abs().max()) > 0.05 * data.scale:
        raise ValueError(
            f"{model.name} was trained on other data ({model.data.get('name')}) than {data.name}: their centres or scales differ"
        )
    return model.denoiser


def _events(args, data: ToyData) -> Iterator[ExperimentEvent]:
    """The events of the requested experiment."""
    settings = _settings(args)
    if args.verb in ("steps", "schedules"):
        scale, seeds = _scale(args), [args.seed + k for k in range(args.seeds)]
        if args.verb == "steps":
            return experiments.steps(data, args.T, seeds, scale, args.scaled, **settings)
        pairs = {"pairs": args.pairs} if args.pairs else {}
        return experiments.schedules(data, T=args.T, seeds=seeds, scale=scale, **pairs, **settings)
    if args.verb == "solvers":
        config = training.ToyTrainConfig(seed=args.seed, **settings)
        model = data.exact() if args.exact else _model(args, data) or training.train_one(config, data)
        schedule = config.make_schedule() if args.exact else model.schedule
        counts = (min(1000, args.points), args.points)
        return experiments.solvers(model, schedule, data, args.evaluations, args.samplers, args.grid, *counts, args.seed)
    model = _model(args, data)
    if args.verb == "classes":
        return experiments.classes(data, model, args.scales, args.label, args.points, args.evaluations, args.seed, **settings)
    if args.verb == "classifier":
        return experiments.classifier(data, model, args.draws, args.t, seed=args.seed, **settings)
    return experiments.likelihood(data, model, None, _scale(args), args.seed, **settings)


def _experiment(args) -> None:
    data, _ = _data(args)
    if args.plot and Path(args.plot).suffix.lower() != ".svg":
        raise ValueError(f"{args.plot} must end in .svg")
    rows, pictures = [], []
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")  # a terminal shows one line, rewritten in place
    for event in _events(args, data):
        rows += event.rows
        pictures += [event.picture] if event.picture else []
        print(f"{start}{event.fraction:4.0%} {event.text}", end=end, file=sys.stderr)
    if not end:
        print(file=sys.stderr)
    if args.csv:
        write_atomically(Path(args.csv), to_csv(rows))
    if args.plot:
        regions = [plots.regions(**p) for p in pictures if "grid" in p]
        write_atomically(Path(args.plot), plots.to_file(plots.plot(rows, args.verb) + regions))
    print(to_table(summarise(rows, args.verb)))


def _train(args) -> None:
    data, recipe = _data(args)
    params = {k: v for k in ("beta_start", "beta_end") if (v := getattr(args, k)) is not None}
    dropout = {"label_dropout": 1.0} if args.unconditional or not data.classes else {}
    settings = read_flags(training.ToyTrainConfig, args, ("schedule", "T", *NETWORK, "seed"))
    config = training.ToyTrainConfig(params=params, **dropout, **settings)
    trainer = training.ToyTrainer([config], data)
    for event in training.train_toys(trainer, every=max(config.steps // 10, 1)):
        print(f"step {event.step} of {event.steps}  loss {event.loss[0]:.4f}  {event.seconds:.1f} s", file=sys.stderr)
    checkpoint.save_toy(args.out, trainer.denoisers()[0], data, config, recipe)
    print(args.out)


def _bench(args) -> None:
    def report(text: str) -> None:
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    times = bench_toy(args.seeds, args.steps, args.points, not args.no_loop, report)
    if args.json:
        print(json.dumps(times))
