#!/usr/bin/env python
"""Which recipe learns most in the same time on this machine? One factor at a time around one recipe, and row by schedule.

    python train/recipes.py --minutes 10                                       # two CPU cores: some two and a half hours
    python train/recipes.py --minutes 3 --preset small --batch 512 --lr 2e-3   # a GPU: about an hour
    python train/recipes.py --minutes 14 --only v-cosine,min-snr-5,lr-2,min-snr-5-lr-2 --seeds 2 --n 10000   # the best again, with seeds
    python train/recipes.py --list

Each line trains for the same wall-clock time, makes n samples with 18 evaluations of dpmpp-2m and is judged by a classifier
trained on the same real pictures: the Frechet distance of its features (FD-classifier: no FID) and the share of samples read as
the class asked for. Finished lines are skipped, a broken one goes on from its last saved state: the same command continues the
study. --phase parts the two: one process trains, another, or another machine later, judges what has been trained. The table is
written to train/RECIPES.md after every line, as the section of its command; other studies there stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

import project
from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.evaluation.agreement import agreement_figures, split_test_images
from ddpm_app.evaluation.distances import Stats, statistics
from ddpm_app.images.datasets import load_data
from ddpm_app.images.pixels import to_uint8
from ddpm_app.networks.device import describe, for_inference, pick_device, pick_dtype
from ddpm_app.networks.unet import PRESETS, UNet
from ddpm_app.paths import SHIPPED, runs_dir
from ddpm_app.training import runs as jobs
from ddpm_app.training.config import TrainConfig
from recipes_table import table, write_section

EMAS = (0.02, 0.05, 0.1, 0.2)  # all kept by every run, so that these lines need no training of their own
EVALUATIONS = 18
EXTRA = ("--validations", "4", "--snapshots", "1")


@dataclasses.dataclass(frozen=True)
class Line:
    """One training and judgement. changes: what differs from the default. ema: which average of the run `trained` is judged.
    Lines of one recipe differ in their seeds only and are one row of the table."""

    name: str
    factor: str
    changes: dict
    ema: float
    trained: str
    seed: int = 0
    recipe: str = ""


def lines(default: TrainConfig) -> list[Line]:
    """The study around a default: thirteen runs, sixteen rows."""
    found, base = [], f"{default.row}-{default.schedule}"

    def add(name: str, factor: str, **changes) -> None:
        found.append(Line(name, factor, changes, default.ema, name))

    add(base, "default")
    for row in ("eps", "v", "edm"):
        for schedule in ("linear", "cosine"):
            if (row, schedule) != (default.row, default.schedule):
                add(f"{row}-{schedule}", "row x schedule", row=row, schedule=schedule)
    for weight in ("uniform", "truncated-snr", "min-snr-5"):
        if weight != default.weight:
            add(weight, "loss weight", weight=weight)
    for ema in EMAS:
        if ema != default.ema:
            found.append(Line(f"ema-{ema:g}", "EMA length", {"ema": ema}, ema, base))
    for factor in (0.5, 2):
        add(f"lr-{factor:g}", "learning rate", lr=float(f"{default.lr * factor:.3g}"))
    for factor in (0.5, 2):  # the rate goes with the root of the batch
        batch = max(int(default.batch * factor), 1)
        add(f"batch-{batch}", "batch, lr by its root", batch=batch, lr=float(f"{default.lr * math.sqrt(factor):.3g}"))
    best = {"weight": "min-snr-5", "lr": float(f"{default.lr * 2:.3g}")}
    add("min-snr-5-lr-2", "the two that help, together", **best)
    return found


def repeated(found: list[Line], seeds: int) -> list[Line]:
    """Each line once a seed, all of the first seed first: a study that is broken off has every recipe once."""
    again = [dataclasses.replace(line, recipe=line.name) for line in found]
    for seed in range(1, seeds):
        named = {"seed": seed}
        again += [
            dataclasses.replace(line, name=_with(line.name, seed), trained=_with(line.trained, seed), recipe=line.name, **named)
            for line in found
        ]
    return again


def _with(name: str, seed: int) -> str:
    return f"{name}-seed-{seed}"


def training_flags(args: argparse.Namespace, line: Line, out: Path) -> list[str]:
    """The arguments of train_unet.py for a line."""
    config = dataclasses.replace(args.default, seed=line.seed, **without_ema(line))
    return [*jobs.flags(dataclasses.asdict(config), out), *EXTRA]


def trained(folder: Path) -> bool:
    """Whether the run in this folder used its budget up."""
    return jobs.read_json(folder / "end.json").get("status") == "finished"


def without_ema(line: Line) -> dict:
    """The changes that a training needs: every run keeps all averages."""
    return {k: v for k, v in line.changes.items() if k != "ema"}


def train_line(args: argparse.Namespace, line: Line, out: Path) -> None:
    """Train, or go on, to the end of the budget. Raises ValueError with the run's own sentence, KeyboardInterrupt when stopped."""
    flags, before = training_flags(args, line, out), jobs.read_json(out / "config.json").get("training")
    if before and jobs.flags(before, out) != flags[: -len(EXTRA)]:
        raise ValueError(f"{out} holds a run of other settings; delete it or give another --out")
    if before and trained(out):
        return
    command = [sys.executable, str(jobs.SCRIPT), *flags, "--resume", "auto", "--now"]
    done = subprocess.run(command, stdout=None if args.verbose else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = jobs.read_json(out / "end.json")
    if end.get("status") == "stopped":
        raise KeyboardInterrupt
    if done.returncode or end.get("status") != "finished":
        raise ValueError(end.get("message") or (done.stderr.strip().splitlines() or ["the process died without a message"])[-1])


def denoiser_of(folder: Path, ema: float, device: torch.device) -> Denoiser:
    """The network of a finished run with one of its averages."""
    config = checkpoint.open_checkpoint(folder).config
    network = UNet(config.network)
    with safe_open(folder / "state.safetensors", "pt") as state, torch.no_grad():
        kind = "ema" if ema == config.training["ema"] else f"ema-{ema:g}"
        for k, p in enumerate(network.parameters()):
            p.copy_(state.get_tensor(f"{kind}.{k}"))
    return Denoiser(for_inference(network, device), make_schedule(**config.schedule), config.prediction_type)


def sample(denoiser: Denoiser, labels: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """uint8 (N, C, H, W), image i of its class from seed i."""
    shape, sampler, parts = (denoiser.network.config.in_channels, *2 * (denoiser.network.config.image_size,)), SAMPLERS["dpmpp-2m"], []
    sigmas = sigma_grid(denoiser.schedule, sampler.steps_for(args.evaluations), sampler.grid)
    with torch.inference_mode():
        for at in range(0, len(labels), args.sample_batch):
            label = labels[at : at + args.sample_batch].to(denoiser.device)
            x, noise = start(range(at, at + len(label)), (len(label), *shape), sigmas, denoiser.device)
            parts.append(to_uint8(last(sampler.steps(clipped(cfg(denoiser, label, args.guidance)), x, sigmas, noise))).cpu())
    return torch.cat(parts)


def protocol(args: argparse.Namespace, line: Line) -> dict:
    """What a line's stored result must share to count for this study."""
    d = dataclasses.asdict(args.default) | {"seed": line.seed}
    kept = {k: d[k] for k in ("data", "preset", "minutes", "batch", "lr", "row", "schedule", "weight", "ema", "seed")}
    fixed = {"n": args.n, "evaluations": args.evaluations, "guidance": args.guidance, "classifier": args.classifier.digest}
    return kept | fixed | {"machine": describe(args.where)}


def judge_line(args: argparse.Namespace, line: Line, reference: Stats) -> dict:
    """Samples of a trained line and their figures."""
    folder = args.out / line.trained
    config = checkpoint.open_checkpoint(folder).config
    labels = torch.arange(len(config.classes)).repeat_interleave(args.n // len(config.classes))
    images = sample(denoiser_of(folder, line.ema, args.where), labels, args)
    figures = agreement_figures(args.classifier, images, labels, reference)
    log = [r for r in checkpoint.open_checkpoint(folder).log() if "validation_loss" in r]
    return {
        "name": line.name,
        "recipe": line.recipe,
        "factor": line.factor,
        "changes": line.changes,
        "fd": figures["FD-classifier"],
        "agreement": figures["agreement"],
        "interval95": figures["interval95"],
        "images": config.images_seen,
        "validation_loss": log[-1]["validation_loss"] if log else None,
        "command": jobs.shown(training_flags(args, line, folder)) if line.trained == line.name else f"of {line.trained}",
        "protocol": protocol(args, line),
    }


def real_figures(args: argparse.Namespace) -> tuple[Stats, dict]:
    """(statistics of real test pictures' features, the figures of as many others as there are, at most n)."""
    pictures, others = split_test_images(load_data(args.data, "test"), args.n // len(args.classifier.config.classes), 5000)
    reference = statistics(args.classifier.features(pictures))
    figures = agreement_figures(args.classifier, others.images, others.labels, reference)
    return reference, {"fd": figures["FD-classifier"], "agreement": figures["agreement"], "n": len(others.images)}


def where(args: argparse.Namespace) -> str:
    return f"{describe(args.where)} (torch {torch.__version__}, {str(pick_dtype(args.where)).removeprefix('torch.')})"


def said(given: list[str]) -> str:
    """The command without what changes no result."""
    silent, kept = argparse.ArgumentParser(add_help=False, allow_abbrev=False), list(given)
    for name in ("--phase", "--out", "--table"):
        silent.add_argument(name)
    for name in ("--verbose", "--list"):
        silent.add_argument(name, action="store_true")
    return jobs.shlex.join(silent.parse_known_args(kept)[1])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="of training a line")
    parser.add_argument("--seconds", type=float, help="the same in seconds, to try it out")
    parser.add_argument("--data", default="cifar10", help="(default cifar10)")
    parser.add_argument("--preset", default="tiny", choices=tuple(PRESETS), help="network (default tiny)")
    for name, kind, default in (("batch", int, 64), ("lr", float, 8e-4)):  # the first study's, whatever has won since
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"of the default line (default {default})")
    parser.add_argument("--n", type=int, default=0, help="samples a line (default 1,000 on a CPU, 10,000 on a GPU)")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help=f"of the network a sample (default {EVALUATIONS})")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale, 1 is off (default 1)")
    parser.add_argument("--classifier", help="directory of the judge (default checkpoints/classifiers/DATA)")
    parser.add_argument("--only", default="", help="names of lines, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each line, of the seeds 0 to SEEDS - 1 (default 1)")
    parser.add_argument("--phase", choices=("train", "judge"), help="only that (default both, a line after the other)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs (default runs/recipes)")
    parser.add_argument("--table", type=Path, help="(default train/RECIPES.md; with --seconds, which tries it out, RECIPES.md in --out)")
    parser.add_argument("--list", action="store_true", help="only say which lines there are, which are done and how long the rest takes")
    parser.add_argument("--verbose", action="store_true", help="show what training prints")
    args = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    args.said = said(given)
    minutes = args.minutes or (args.seconds or 0) / 60 or (10.0 if args.list else 0.0)
    try:
        args.where = pick_device(args.device)
        averages = ",".join(f"{a:g}" for a in EMAS)
        args.default = TrainConfig(
            data=args.data, preset=args.preset, minutes=minutes, batch=args.batch, lr=args.lr, device=args.device, averages=averages,
            weight="uniform",  # the textbook's, whatever has won since
        )  # fmt: skip
        args.n = args.n or (10_000 if args.where.type == "cuda" else 1000)
        args.sample_batch = 500 if args.where.type == "cuda" else 100
        args.out = args.out or runs_dir() / "recipes"
        args.table = args.table or (args.out if args.seconds else Path(__file__).parent) / "RECIPES.md"
        known = [line.name for line in lines(args.default)]
        args.names = [n.strip() for n in args.only.split(",") if n.strip()] or known
        if wrong := [n for n in args.names if n not in known]:
            raise ValueError(f"--only: no line {wrong[0][:40]!r}; there are {', '.join(known)}")
        args.classifier = load_classifier(args.classifier or SHIPPED / "classifiers" / args.data, args.where)
        if args.seeds < 1:
            raise ValueError("--seeds is at least 1")
        if args.n < 2 * len(args.classifier.config.classes) or args.evaluations < 1:
            raise ValueError(f"out of range: n from {2 * len(args.classifier.config.classes)}, evaluations from 1")
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    chosen = repeated([line for line in lines(args.default) if line.name in args.names], args.seeds)
    stored = {line.name: jobs.read_json(args.out / f"{line.name}.json") for line in chosen}
    stored = {line.name: stored[line.name] for line in chosen if stored[line.name].get("protocol") == protocol(args, line)}
    if args.list:
        for line in chosen:
            print(f"{line.name:22} {line.factor:28} {'done' if line.name in stored else ''}".rstrip())
        runs = {line.trained for line in chosen if line.name not in stored}
        runs = {name for name in runs if not trained(args.out / name)}
        print(
            f"{len(runs)} trainings of {args.default.minutes:g} minutes: {len(runs) * args.default.minutes / 60:.1f} hours, and the samples"
        )
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    reference, real = (None, {}) if args.phase == "train" else real_figures(args)
    for line in chosen:
        if line.name in stored:
            print(f"{line.name}: done already", flush=True)
            continue
        begun = time.perf_counter()
        try:
            if args.phase != "judge":
                train_line(args, dataclasses.replace(line, name=line.trained, changes=without_ema(line)), args.out / line.trained)
            elif not trained(args.out / line.trained):
                raise ValueError("not trained to its end yet")
            if args.phase == "train":
                print(f"{line.name}: trained, {time.perf_counter() - begun:.0f} s", flush=True)
                continue
            r = stored[line.name] = judge_line(args, line, reference)
        except ValueError as error:  # a recipe that diverges is a result, too
            missing.append(f"{line.name} ({error})")
            print(f"{line.name}: {error}", file=sys.stderr, flush=True)
            continue
        except KeyboardInterrupt:
            print("recipes: stopped, saved; the same command goes on", file=sys.stderr)
            return 130
        files.write_atomically(args.out / f"{line.name}.json", json.dumps(r, indent=1))
        took = time.perf_counter() - begun
        print(
            f"{line.name}: FD-classifier {r['fd']:.4g}, read as asked {r['agreement']:.3f}, {r['images']:,} images, {took:.0f} s",
            flush=True,
        )
        write_section(args.table, table(args, where(args), [stored[c.name] for c in chosen if c.name in stored], real, missing))
    if args.phase != "train":
        write_section(args.table, table(args, where(args), [stored[c.name] for c in chosen if c.name in stored], real, missing))
        print(f"{args.table}: {len(stored)} of {len(chosen)} lines")
    return 0 if not missing else 1


if __name__ == "__main__":
    project.run(main)
