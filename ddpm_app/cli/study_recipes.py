"""Which recipe learns most in the same time on this machine? One factor at a time around one recipe, and prediction type by schedule.

    python train/study_recipes.py --minutes 10                                       # two CPU cores: about two and a half hours
    python train/study_recipes.py --minutes 3 --preset small --batch 512 --lr 2e-3   # a GPU: about an hour
    python train/study_recipes.py --minutes 14 --only v-cosine,min-snr-5,lr-2,min-snr-5-lr-2 --seeds 2 --n 10000   # the best, with seeds
    python train/study_recipes.py --list

Every line trains for the same wall-clock time. A classifier trained on the same real images then measures n samples (18 evaluations of
dpmpp-2m): the Frechet distance of its features (FD-classifier, not an FID) and the share of samples whose predicted class is the requested
one. The same command continues an interrupted study: it skips finished lines and resumes a stopped training from its saved state. With
--phase, one process trains, and another, on the same or another machine, measures what has been trained. After every line the command
writes the table into train/RECIPES.md, as the section of this command; sections of other studies stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path

from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.diffusion.names import rename_row
from ddpm_app.evaluation import recipes
from ddpm_app.evaluation.recipes import Study
from ddpm_app.evaluation.recipes_table import table, write_section
from ddpm_app.files import read_json, write_atomically
from ddpm_app.flags import Parser, check_choice
from ddpm_app.networks.device import pick_device
from ddpm_app.networks.unet_config import PRESETS
from ddpm_app.paths import PROJECT, SHIPPED, runs_dir
from ddpm_app.training.config import TrainConfig


def results_command(argv: list[str]) -> str:
    """The command's arguments without those that change no result."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for name in ("--phase", "--out", "--table"):
        parser.add_argument(name)
    for name in ("--verbose", "--list"):
        parser.add_argument(name, action="store_true")
    return shlex.join(parser.parse_known_args(argv)[1])


def parse(argv: list[str] | None) -> tuple[Study, list[recipes.Line], argparse.Namespace]:
    """(the study, its chosen lines, the arguments)."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="training time of each line")
    parser.add_argument("--seconds", type=float, help="the same in seconds, for a trial")
    parser.add_argument("--data", default="cifar10", help="(default cifar10)")
    parser.add_argument("--preset", default="tiny", choices=tuple(PRESETS), help="network (default tiny)")
    for name, kind, default in (("batch", int, 64), ("lr", float, 8e-4)):  # those of the first study, so that studies compare
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"of the default line (default {default})")
    parser.add_argument("--n", type=int, default=0, help="samples for each line (default 1,000 on a CPU, 10,000 on a GPU)")
    parser.add_argument("--evaluations", type=int, default=18, help="network evaluations for each sample (default 18)")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale, 1 is off (default 1)")
    parser.add_argument("--classifier", help="directory of the classifier that measures (default checkpoints/classifiers/DATA)")
    parser.add_argument("--only", default="", help="names of lines, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each line, with the seeds 0 to SEEDS - 1 (default 1)")
    parser.add_argument("--phase", choices=("train", "judge"), help="only train, or only measure (default both, line by line)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs (default runs/recipes)")
    parser.add_argument("--table", type=Path, help="(default train/RECIPES.md; with --seconds RECIPES.md in --out)")
    parser.add_argument("--list", action="store_true", help="list the lines, which are done, and the time that the others take")
    parser.add_argument("--verbose", action="store_true", help="show what training prints")
    args = parser.parse_args(argv)
    minutes = args.minutes or (args.seconds or 0) / 60 or (10.0 if args.list else 0.0)
    try:
        device = pick_device(args.device)
        averages = ",".join(f"{a:g}" for a in recipes.EMAS)
        default = TrainConfig(
            data=args.data, preset=args.preset, minutes=minutes, batch=args.batch, lr=args.lr, device=args.device, averages=averages,
            weight="uniform",  # that of the first study
        )  # fmt: skip
        lines = recipes.lines(default)
        names = [line.name for line in lines]
        chosen = [n.strip() for n in args.only.split(",") if n.strip()] or names
        for name in chosen:
            check_choice("line", name, names)
        if args.seeds < 1:
            raise ValueError("--seeds is at least 1")
        out = args.out or runs_dir() / "recipes"
        study = Study(
            default=default,
            classifier=load_classifier(args.classifier or SHIPPED / "classifiers" / args.data, device),
            device=device,
            out=out,
            table=args.table or (out if args.seconds else PROJECT / "train") / "RECIPES.md",
            command=results_command(sys.argv[1:] if argv is None else argv),
            n=args.n or (10_000 if device.type == "cuda" else 1000),
            evaluations=args.evaluations,
            guidance=args.guidance,
            seeds=args.seeds,
            batch=500 if device.type == "cuda" else 100,
            verbose=args.verbose,
        )
        if study.n < 2 * len(study.classifier.config.classes) or study.evaluations < 1:
            raise ValueError(f"out of range: n from {2 * len(study.classifier.config.classes)}, evaluations from 1")
    except ValueError as error:
        parser.error(str(error))
    return study, recipes.repeated([line for line in lines if line.name in chosen], study.seeds), args


def print_lines(study: Study, lines: list[recipes.Line], results: dict[str, dict]) -> None:
    """The lines, which of them are done, and how long the others take."""
    for line in lines:
        print(f"{line.name:22} {line.factor:28} {'done' if line.name in results else ''}".rstrip())
    names = {line.trained for line in lines if line.name not in results}
    untrained = [name for name in names if not recipes.trained(study.out / name)]
    minutes = study.default.minutes
    print(f"{len(untrained)} trainings of {minutes:g} minutes: {len(untrained) * minutes / 60:.1f} hours, and the samples")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: done; 1: some lines failed; 130: stopped."""
    study, lines, args = parse(argv)
    stored = {line.name: read_json(study.out / f"{line.name}.json") for line in lines}
    protocols = {name: rename_row(result.get("protocol") or {}) for name, result in stored.items()}
    results = {line.name: stored[line.name] for line in lines if protocols[line.name] == recipes.protocol(study, line)}
    if args.list:
        print_lines(study, lines, results)
        return 0
    study.out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    reference, real = (None, {}) if args.phase == "train" else recipes.real_figures(study)

    def write_table() -> None:
        write_section(study.table, table(study, [results[line.name] for line in lines if line.name in results], real, failures))

    for line in lines:
        if line.name in results:
            print(f"{line.name}: done already", flush=True)
            continue
        begun = time.perf_counter()
        folder = study.out / line.trained
        try:
            if args.phase != "judge":
                recipes.train_line(study, dataclasses.replace(line, name=line.trained, changes=recipes.without_ema(line)), folder)
            elif not recipes.trained(folder):
                raise ValueError("its training has not finished")
            if args.phase == "train":
                print(f"{line.name}: trained, {time.perf_counter() - begun:.0f} s", flush=True)
                continue
            result = results[line.name] = recipes.measure_line(study, line, reference)
        except ValueError as error:  # a recipe that diverges is a result of the study, too
            failures.append(f"{line.name} ({error})")
            print(f"{line.name}: {error}", file=sys.stderr, flush=True)
            continue
        except KeyboardInterrupt:
            print("study_recipes: stopped and saved; the same command continues", file=sys.stderr)
            return 130
        write_atomically(study.out / f"{line.name}.json", json.dumps(result, indent=1))
        measured = f"FD-classifier {result['fd']:.4g}, agreement {result['agreement']:.3f}, {result['images']:,} images"
        print(f"{line.name}: {measured}, {time.perf_counter() - begun:.0f} s", flush=True)
        write_table()
    if args.phase != "train":
        write_table()
        print(f"{study.table}: {len(results)} of {len(lines)} lines")
    return 0 if not failures else 1
