"""RECIPES.md: one section for each study, with its command."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from ddpm_app.evaluation.recipes import Study
from ddpm_app.files import write_atomically

TITLE = "# Which recipe learns most in the same time\n"


def table(study: Study, results: list[dict], real: dict, missing: list[str]) -> str:
    """A study's section of RECIPES.md: one row for each recipe, with the result of every seed.

    results    of recipes.measure_line
    real       the same figures of real images
    missing    failed lines, each with its error
    """
    d, kind, seeds = study.default, "" if study.n == 10_000 else f", n = {study.n:,}", study.seeds
    seed_note = f"seed {d.seed}" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    times = "" if seeds == 1 else f", {seeds} seeds"
    long = f"{d.minutes:g} minutes" if d.minutes >= 1 else f"{60 * d.minutes:g} seconds"
    text = [
        f"## {d.data}, `{d.preset}`, {long} a line, {study.n:,} samples{times}",
        "",
        f"Trained on {study.where}, {seed_note}; made by",
        "",
        f"    python train/study_recipes.py {study.command}".rstrip(),
        "",
        f"Measured on {study.n:,} samples ({study.evaluations} evaluations of dpmpp-2m, guidance {study.guidance:g}, seeds from 0) by "
        f"the {study.classifier.config.data} classifier {study.classifier.digest[:8]}: the Frechet distance of its features to "
        "real test images (not an FID; lower is nearer) and the share whose predicted class is the requested one "
        + ("(with its 95 % interval). " if seeds == 1 else "(means, and in brackets each seed's). ")
        + f"{real['n']:,} other real test images have {real['fd']:.3g} and {real['agreement']:.3f}. Validation losses compare only within "
        "one prediction type, schedule and weight.",
        "",
        f"| | what differs | images seen | FD-classifier{kind} | agreement | validation loss |",
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
        validation_loss = f"{mean(losses):.4f}" if losses else ""
        text.append(
            f"| `{name}` | {what} | {round(mean(r['images'] for r in of)):,} | {shown}{spread} "
            f"| {mean(r['agreement'] for r in of):.3f} ({agreed}) | {validation_loss} |"
        )
    text += ["", "Each line again, in the project's folder:", ""]
    text += [f"    {r['command']}  # {r['name']}" for r in results if r["command"].startswith("python")]
    if missing:
        text += ["", f"Not done: {'; '.join(missing)}."]
    return "\n".join(text) + "\n"


def write_section(file: Path, section: str) -> None:
    """Write the section into the file: in place of the section with the same title, or at the end."""
    head, *others = file.read_text(encoding="utf-8").split("\n## ") if file.exists() else [TITLE]
    kept, (title, _) = [f"## {o.rstrip()}\n" for o in others], section.split("\n", 1)
    at = next((k for k, o in enumerate(kept) if o.startswith(f"{title}\n")), len(kept))
    kept[at : at + 1] = [section]
    write_atomically(file, "\n".join([head.rstrip() + "\n", *kept]))
