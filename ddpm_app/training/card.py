"""A finished run becomes a model that ships: EMA weights (fp16), log, sample grids, measured numbers and a model card.

If the run was started from another run's weights (--init), the card describes both, oldest first.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

from ddpm_app.checkpoints import checkpoint, weights
from ddpm_app.checkpoints.checkpoint import Checkpoint, CheckpointConfig
from ddpm_app.checkpoints.measurements import Measurement, card_rows, copy_measurements, store
from ddpm_app.files import read_json, write_atomically
from ddpm_app.flags import settings_to_flags
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.runs import Run
from ddpm_app.training.validation import VALIDATION_IMAGES

CARD = """---
license: mit
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
| training | {training}; {machine} |{tuned}
| weights | {average}, fp16 safetensors |

Trained with

    {commands}

{metrics}
"""


def ship(run: Path, out: Path, note: str, machine: str = "") -> Checkpoint:
    """Write the model directory `out` from a run's folder. Returns the shipped model.

    note: the card's first paragraph. machine: what it was trained on; "" takes what the run has recorded. If `out` holds the same
    weights already, the numbers measured since are kept. Raises ValueError.
    """
    source = checkpoint.open_checkpoint(run)
    parts = [checkpoint.open_checkpoint(folder) for folder in lineage(run)]
    total = sum(part.config.images_seen for part in parts)
    previous = checkpoint.open_checkpoint(out).config if (out / "config.json").is_file() else None
    same_weights = previous and (previous.images_seen, previous.ema) == (total, source.config.ema)
    config = previous if same_weights else dataclasses.replace(source.config, images_seen=total)
    shipped = checkpoint.save(out, config, weights.read_weights(source.path))
    if not same_weights:
        copy_measurements(source, shipped)
    loss = validation(source)
    if loss is not None and not any(row["name"] == "validation loss" for row in card_rows(shipped)):
        store(shipped, validation_measurement(shipped, loss))

    for part in parts:
        name = "log.jsonl" if part is parts[-1] else f"log-{part.name}.jsonl"
        shutil.copyfile(part.path / "log.jsonl", out / name)
    grid = source.path / "samples" / f"{source.config.images_seen:010d}.png"
    if is_own_ema(source) and grid.is_file():
        shutil.copyfile(grid, out / "samples.png")
        copy_sample_grids(source, out / "samples")
    else:  # the run has drawn no samples of these weights
        (out / "samples.png").unlink(missing_ok=True)
        shutil.rmtree(out / "samples", ignore_errors=True)
    write_atomically(out / "README.md", card(shipped, parts, note, machine or recorded_machine(source.path)))
    return shipped


def copy_sample_grids(run: Checkpoint, folder: Path) -> None:
    """The grids that the run drew at its validations, up to the shipped weights: the page shows with them how the model learned."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for grid in sorted((run.path / "samples").glob("*.png")):
        if int(grid.stem) <= run.config.images_seen:
            shutil.copyfile(grid, folder / grid.name)


def card(model: Checkpoint, parts: list[Checkpoint], note: str, machine: str) -> str:
    """The model card in Markdown. parts: the runs that were trained one after the other, each a Checkpoint."""
    config, network = model.config, model.config.network
    commands = [
        command(part.config.training, part.name if len(parts) > 1 or part.config.tuned_for else "", before.name if before else "")
        for part, before in zip(parts, [None, *parts])
    ]
    text = CARD.format(
        name=model.name,
        note=note,
        data=config.data,
        image=f"{network.image_size}x{network.image_size}x{network.in_channels}",
        classes=", ".join(config.classes),
        channels=network.channels,
        multipliers="-".join(map(str, network.multipliers)),
        blocks=network.blocks,
        parameters=sum(v.numel() for v in weights.read_weights(model.path).values()),
        row=config.prediction_type,
        tuned=tuned_row(config),
        schedule=config.schedule["name"],
        T=config.schedule.get("T", 1000),
        training=", then ".join(trained(part) for part in parts),
        machine=machine,
        average="raw, no EMA" if config.ema.startswith("none") else f"EMA ({config.ema})",
        commands="\n    ".join(commands),
        metrics=metrics_table(card_rows(model)),
    )
    return text.rstrip() + "\n"


def lineage(run: Path) -> list[Path]:
    """The folders of the runs that led to this one, oldest first. Each was started (--init) with the weights of the one before it.

    Raises ValueError if one of them is not a run."""
    folders = [run.resolve()]
    while True:
        job = read_json(folders[0] / "job.json")
        argv = job.get("argv") or []
        if "--init" not in argv[:-1]:
            return folders
        previous = Path(job.get("cwd") or "", argv[argv.index("--init") + 1]).resolve()
        previous = previous.parents[1] if previous.parent.name == "snapshots" else previous
        if not (previous / "log.jsonl").is_file() or previous in folders:
            raise ValueError(f"{folders[0]} was started with the weights in {previous}, which is not the folder of a run")
        folders.insert(0, previous)


def trained(run: Checkpoint) -> str:
    """How many images the run's weights have seen in how many minutes. The run may have trained on after these weights."""
    images, log = run.config.images_seen, run.log()
    minutes = max((row["seconds"] for row in log if "seconds" in row and row.get("images", 0) <= images), default=0) / 60
    whole = max((row.get("images", 0) for row in log), default=0)
    what = "trajectories" if run.config.tuned_for else "images"
    text = f"{images:,} {what} in {minutes:.{0 if minutes >= 10 else 1}f} minutes"
    return text + (f" (the whole run: {whole:,})" if whole > images else "")


def is_own_ema(run: Checkpoint) -> bool:
    """Whether the run's checkpoint is the EMA that it tracked, not raw weights or an average made afterwards."""
    own = {checkpoint.open_checkpoint(snapshot).config.ema for snapshot in Run(run.path).snapshots()}
    return not own or run.config.ema in own


def validation(run: Checkpoint) -> float | None:
    """The logged validation loss of the run's weights. The log has it for the run's own EMA, at each validation. None for a model tuned
    to few evaluations, whose loss is another one."""
    if not is_own_ema(run) or run.config.tuned_for:
        return None
    losses = {row["images"]: row["validation_loss"] for row in run.log() if "validation_loss" in row and "images" in row}
    return losses.get(run.config.images_seen)


def validation_measurement(model: Checkpoint, loss: float) -> Measurement:
    """The validation loss with its protocol."""
    weight = model.config.training.get("weight", "uniform")
    protocol = {
        "loss": "mean squared error of F" + ("" if weight == "uniform" else f" weighted by {weight}"),
        "images": f"the first {VALIDATION_IMAGES} of the held-out tenth (or all of them)",
        "noise": "fixed, t spread evenly",
        "ema": model.config.ema,
        "images_seen": model.config.images_seen,
    }
    return Measurement("validation loss", loss, math.nan, {}, protocol)


def recorded_machine(run: Path) -> str:
    return read_json(run / "job.json").get("machine") or "the run has not recorded its machine"


def command(settings: dict, out: str = "", init: str = "") -> str:
    """The call of train_unet.py with the settings that differ from the defaults. out, init: names of runs."""
    argv = [*settings_to_flags(TrainConfig, settings), *(["--init", f"runs/{init}"] if init else [])]
    return " ".join(["python train/train_unet.py", *argv, "--out", f"runs/{out or settings['data']}"])


def tuned_row(config: CheckpointConfig) -> str:
    """The card's row of a model tuned to few evaluations; "" for others."""
    if not config.tuned_for:
        return ""
    count, teacher = config.tuned_for, Path(config.training.get("teacher", "")).name
    takes = f"{count} evaluation{'s' * (count > 1)} per image by default (`consistency` sampler)"
    return f"\n| tuned | from `{teacher}`, towards its guided samples; {takes}; guidance is fixed at {config.guidance:g} |"


def metrics_table(metrics: list[dict]) -> str:
    """A Markdown table of stored numbers; "" if there are none."""
    rows = [f"| {m['name']} | {m['value']:.4g} | {m['protocol']} |" for m in metrics]
    return "\n".join(["| measured | value | protocol |", "|---|---|---|", *rows]) if rows else ""
