"""RECIPES.md: one section a study, each with its command."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from ddpm_app.files import write_atomically

TITLE = "# Which recipe learns most in the same time\n"


def table(args: argparse.Namespace, where: str, results: list[dict], real: dict, missing: list[str]) -> str:
    """A study's section of RECIPES.md: a row a recipe, with what each seed gave where there are several.

    args: recipes.py's. where: device and precision. results: of its judge_line. real: the same figures of real pictures.
    missing: lines that could not be had, and why."""
    d, kind, seeds = args.default, "" if args.n == 10_000 else f", n = {args.n:,}", args.seeds
    said = f"seed {d.seed}" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    times = "" if seeds == 1 else f", {seeds} seeds"
    long = f"{d.minutes:g} minutes" if d.minutes >= 1 else f"{60 * d.minutes:g} seconds"
    text = [
        f"## {d.data}, `{d.preset}`, {long} a line, {args.n:,} samples{times}",
        "",
        f"Trained on {where}, {said}; made by",
        "",
        f"    python train/recipes.py {args.said}".rstrip(),
        "",
        f"Judged on {args.n:,} samples ({args.evaluations} evaluations of dpmpp-2m, guidance {args.guidance:g}, seeds from 0) by "
        f"the {args.classifier.config.data} classifier {args.classifier.digest[:8]}: the Frechet distance of its features to "
        "real test pictures (no FID; lower is nearer) and the share in which the classifier agrees with the requested label "
        + ("(with its 95 % interval). " if seeds == 1 else "(means, and in brackets each seed's). ")
        + f"{real['n']:,} other real test pictures have {real['fd']:.3g} and {real['agreement']:.3f}. Validation losses compare within "
        "one row, schedule and weight only.",
        "",
        f"| | what differs | images seen | FD-classifier{kind} | read as asked | validation loss |",
        "|---|---|---|---|---|---|",
    ]
    recipes: dict[str, list[dict]] = {}
    for r in results:
        recipes.setdefault(r["recipe"], []).append(r)
    best = min((mean(r["fd"] for r in of) for of in recipes.values()), default=None)
    for name, of in recipes.items():
        what = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in of[0]["changes"].items()) or "nothing"
        fd = mean(r["fd"] for r in of)
        shown = f"**{fd:#.3g}**" if fd == best else f"{fd:#.3g}"
        spread = "" if seeds == 1 else f" ({', '.join(format(r['fd'], '#.3g') for r in of)})"
        low, high = of[0]["interval95"]
        agreed = f"{low:.3f} to {high:.3f}" if seeds == 1 else ", ".join(f"{r['agreement']:.3f}" for r in of)
        losses = [r["validation_loss"] for r in of if r["validation_loss"] is not None]
        held = f"{mean(losses):.4f}" if losses else ""
        text.append(
            f"| `{name}` | {what} | {round(mean(r['images'] for r in of)):,} | {shown}{spread} "
            f"| {mean(r['agreement'] for r in of):.3f} ({agreed}) | {held} |"
        )
    text += ["", "Each line again, in the project's folder:", ""]
    text += [f"    {r['command']}  # {r['name']}" for r in results if r["command"].startswith("python")]
    if missing:
        text += ["", f"Not done: {'; '.join(missing)}."]
    return "\n".join(text) + "\n"


def write_section(file: Path, section: str) -> None:
    """The section into the file, in the place of the one of the same title, else at the end."""
    head, *others = file.read_text(encoding="utf-8").split("\n## ") if file.exists() else [TITLE]
    kept, (title, _) = [f"## {o.rstrip()}\n" for o in others], section.split("\n", 1)
    at = next((k for k, o in enumerate(kept) if o.startswith(f"{title}\n")), len(kept))
    kept[at : at + 1] = [section]
    write_atomically(file, "\n".join([head.rstrip() + "\n", *kept]))
