#!/usr/bin/env python
"""Copy a finished run into checkpoints/ as a model that ships: EMA weights (fp16), log, newest sample grid, and a card.

    python train/ship.py runs/mnist checkpoints/mnist --note "what a reader should know"

The card's numbers come from the run's own config and log and from what train/judge.py --write stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import sys
from pathlib import Path

import project
from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints.measurements import copy_measurements
from ddpm_app.flags import settings_to_flags
from ddpm_app.studio import exports
from ddpm_app.studio.studio import Request, Studio
from ddpm_app.training import runs as jobs
from ddpm_app.training.config import TrainConfig

VALIDATION = "the run's EMA weights, first 512 images of the held-out tenth, t spread evenly, fixed noise"
CARD = """---
library_name: ddpm-studio
tags: [diffusion, ddpm, {data}]
---
# {name}

{note}

| | |
|---|---|
| data | {data}, {image}, classes: {classes} |
| network | U-Net, {channels} channels x {multipliers}, {blocks} block(s) a level, {parameters:,} parameters |
| predicts | {row}, {schedule} schedule, T = {T} |
| training | {training}; {machine} |
| weights | {average}, fp16 safetensors |

Trained with

    {command}

{metrics}
"""


def lineage(run: Path) -> list[Path]:
    """The runs that led to this one, oldest first, itself last: each was begun (--init) from the weights of the one before."""
    found = [run.resolve()]
    while True:
        argv = jobs.read_json(found[0] / "job.json").get("argv") or []
        if "--init" not in argv[:-1]:
            return found
        before = Path(jobs.read_json(found[0] / "job.json").get("cwd") or "", argv[argv.index("--init") + 1]).resolve()
        before = before.parents[1] if before.parent.name == "snapshots" else before
        if not (before / "log.jsonl").is_file() or before in found:
            raise ValueError(f"{found[0]} was begun from the weights in {before}, which is no run that could be told of")
        found.insert(0, before)


def minutes(run: Path) -> str:
    """The minutes of training behind the run's weights, which need not be its last."""
    source = checkpoint.open_checkpoint(run)
    rows = [r for r in source.log() if "seconds" in r and r.get("images", 0) <= source.config.images_seen]
    found = max((r["seconds"] for r in rows), default=0) / 60
    return f"{found:.0f} minutes" if found >= 10 else f"{found:.1f} minutes"


def own_weights(source: checkpoint.Checkpoint) -> bool:
    """Whether the run's checkpoint is its own EMA, not raw weights or another average kept afterwards."""
    own = {checkpoint.open_checkpoint(p).config.ema for p in jobs.Run(source.path).snapshots()}
    return not own or source.config.ema in own


def trained(run: Path, images: int) -> str:
    """What the weights have seen, and whether the run went on after them."""
    most = max((r.get("images", 0) for r in checkpoint.open_checkpoint(run).log()), default=0)
    return f"{images:,} images in {minutes(run)}" + (f" (the run's whole: {most:,})" if most > images else "")


def validation(source: checkpoint.Checkpoint) -> float | None:
    """The logged validation loss of these very weights: it is taken of the run's own EMA only, and at its marks."""
    if not own_weights(source):
        return None
    found = {r["images"]: r["validation_loss"] for r in source.log() if "validation_loss" in r and "images" in r}
    return found.get(source.config.images_seen)


def machine(run: Path) -> str:
    """What the run says it was trained on."""
    return jobs.read_json(run / "job.json").get("machine") or "a machine that its run does not name"


def command(settings: dict, out: str = "", init: str = "") -> str:
    """The train_unet.py call, with what differs from the defaults."""
    flags = settings_to_flags(TrainConfig, settings)
    return "python train/train_unet.py " + " ".join(
        [*flags, *([f"--init runs/{init}"] if init else []), f"--out runs/{out or settings['data']}"]
    )


def metrics_table(metrics: list) -> str:
    rows = [f"| {m['name']} | {m['value']:.4g} | {m['protocol']} |" for m in metrics]
    return "\n".join(["| measured | value | protocol |", "|---|---|---|", *rows]) if rows else ""


def animation(path: Path) -> bytes:
    """Sixteen images from noise to picture, a lossy looping WebP at native size: what the page shows before the first click."""
    studio = Studio([path.parent], precision="fp32")
    request = Request(path.name, n=16, guidance=2.0, evaluations=28, seed=3)
    frames = [exports.frame_grid(f.x, 4) for f in studio.sample(request)]
    buffer, pause = io.BytesIO(), [70] * (len(frames) - 1) + [2200]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=pause, loop=0, quality=75, method=4)
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="directory that train_unet.py wrote")
    parser.add_argument("out", help="directory of the shipped model, e.g. checkpoints/mnist")
    parser.add_argument("--note", default="A denoising diffusion model.", help="the card's first paragraph")
    parser.add_argument("--machine", default="", help="what it was trained on (default: as the run says)")
    args = parser.parse_args(argv)
    try:
        source = checkpoint.open_checkpoint(args.run)
        out, runs = Path(args.out), lineage(Path(args.run))
        parts = [checkpoint.open_checkpoint(r).config for r in runs]
        total = sum(c.images_seen for c in parts)
        before = checkpoint.open_checkpoint(out).config if (out / "config.json").is_file() else None
        same = before and (before.images_seen, before.ema) == (total, source.config.ema)
        if same:
            config = before  # the same weights: keep the numbers measured since
        else:
            config = dataclasses.replace(source.config, images_seen=total)
        loss = validation(source)
        if loss is not None and not any(m["name"] == "validation loss" for m in config.metrics):
            weight = config.training.get("weight", "uniform")
            kind = "mean squared error of F" + ("" if weight == "uniform" else f", weighted by {weight},")
            entry = {"name": "validation loss", "value": loss, "protocol": f"{kind} {VALIDATION}"}
            config = dataclasses.replace(config, metrics=[entry, *config.metrics])
        checkpoint.save(out, config, checkpoint.read_weights(source.path))
        if not same:
            copy_measurements(source, checkpoint.open_checkpoint(out))
    except ValueError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    shutil.copyfile(source.path / "log.jsonl", out / "log.jsonl")
    for before in runs[:-1]:
        shutil.copyfile(before / "log.jsonl", out / f"log-{before.name}.jsonl")
    grid = source.path / "samples" / f"{source.config.images_seen:010d}.png"
    if own_weights(source) and grid.is_file():
        shutil.copyfile(grid, out / "samples.png")
    else:  # the run drew none of these weights
        (out / "samples.png").unlink(missing_ok=True)
    files.write_atomically(out / "denoising.webp", animation(out))
    facts = exports.model_facts(checkpoint.open_checkpoint(out))
    text = CARD.format(
        **{k: v for k, v in facts.items() if k not in ("metrics", "multipliers", "classes", "name", "place")},
        name=out.name,
        note=args.note,
        average="raw, no EMA" if config.ema.startswith("none") else f"EMA ({config.ema})",
        machine=args.machine or machine(runs[-1]),
        training=", then ".join(trained(r, c.images_seen) for r, c in zip(runs, parts)),
        multipliers="-".join(map(str, facts["multipliers"])),
        classes=", ".join(facts["classes"]),
        command="\n    ".join(
            command(c.training, r.name if len(runs) > 1 else "", runs[k - 1].name if k else "") for k, (r, c) in enumerate(zip(runs, parts))
        ),
        metrics=metrics_table(facts["metrics"]),
    )
    files.write_atomically(out / "README.md", text.rstrip() + "\n")
    print(f"{out}: {config.images_seen} images seen, {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    project.run(main)
