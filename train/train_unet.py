#!/usr/bin/env python
"""Train a U-Net: a budget in, a checkpoint directory out.

    python train/train_unet.py --data mnist --preset tiny --minutes 30 --out runs/mnist
    python train/train_unet.py --data cifar10 --preset small --row v --schedule cosine --minutes 25 --out runs/cifar10

The directory holds config.json, weights.safetensors (the EMA), log.jsonl, samples/*.png, snapshots/ and state.safetensors,
from which --resume continues exactly. Ctrl-C saves and stops.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from ddpm_app import checkpoints, viz  # noqa: E402
from ddpm_app.data import load_data, split, to_uint8  # noqa: E402
from ddpm_app.denoiser import Denoiser  # noqa: E402
from ddpm_app.device import describe, for_inference  # noqa: E402
from ddpm_app.guidance import cfg, clipped  # noqa: E402
from ddpm_app.samplers import SAMPLERS, SeededNoise, initial_noise, last  # noqa: E402
from ddpm_app.schedules import sigma_grid  # noqa: E402
from ddpm_app.training import RECIPES, TrainConfig, Trainer, train, validation_loss  # noqa: E402
from ddpm_app.unet import UNet  # noqa: E402


def parse(argv: list[str] | None) -> tuple[TrainConfig, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"int": int, "float": float, "str": str}
    for f in dataclasses.fields(TrainConfig):
        parser.add_argument(
            "--" + f.name.replace("_", "-"),
            type=kinds[f.type],
            default=None,
            choices=f.metadata.get("choices"),
            help=f"{f.metadata['help']} (default {f.default})",
        )
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="named settings, each overridden by its own flag")
    parser.add_argument("--out", help="directory of the run (needed unless --resume names one)")
    parser.add_argument("--resume", help="auto: continue in --out if it holds a state; or a run's directory")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop, saved, after this many seconds of wall clock")
    parser.add_argument("--every", type=int, default=50, help="steps between log lines (default 50)")
    parser.add_argument("--marks", type=int, default=20, help="validation, sample grid and saved state this often over the budget")
    parser.add_argument("--snapshots", type=int, default=10, help="EMA snapshots kept over the budget (default 10)")
    args = parser.parse_args(argv)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig) if getattr(args, f.name) is not None}
    settings = {**(RECIPES[args.recipe] if args.recipe else {}), **given}
    if args.resume and args.resume != "auto":
        args.out = args.out or args.resume
    if not args.out:
        parser.error("--out is needed")
    resume_from = Path(args.out if args.resume == "auto" else args.resume or "")
    args.state = resume_from / "state.safetensors" if args.resume else None
    stored = resume_from / "config.json"
    if args.state and args.state.is_file() and stored.is_file():  # a resumed run keeps its settings; a budget may be given anew
        previous = json.loads(stored.read_text())["training"]
        settings = {**previous, **settings}
        if "minutes" in given or "images" in given:
            settings |= {"minutes": given.get("minutes", 0.0), "images": given.get("images", 0)}
    try:
        return TrainConfig(**settings), args
    except (ValueError, TypeError) as error:
        parser.error(str(error))


def checkpoint_config(trainer: Trainer) -> checkpoints.CheckpointConfig:
    c = trainer.config
    return checkpoints.CheckpointConfig(
        network=trainer.network.config,
        schedule={"name": c.schedule, "T": c.T},
        row=c.row,
        data=trainer.data.name,
        classes=trainer.data.classes,
        images_seen=trainer.images,
        training=dataclasses.asdict(c),
        ema=trainer.ema.describe(),
    )


def sample_grid(trainer: Trainer, per_class: int = 8, evaluations: int = 18, scale: float = 1.5) -> torch.Tensor:
    """uint8 (rows * per_class, C, H, W): one row a class (at most ten), fixed seeds, from the EMA weights."""
    network = UNet(trainer.network.config)
    network.load_state_dict({k: v.float() for k, v in trainer.weights().items()})
    denoiser = Denoiser(for_inference(network, trainer.device, trainer.dtype), trainer.denoiser.schedule, trainer.config.row)
    classes = min(trainer.network.config.num_classes, 10) or 1
    label = torch.arange(classes, device=trainer.device).repeat_interleave(per_class)
    sigmas = sigma_grid(denoiser.schedule, evaluations)
    x = initial_noise(SeededNoise(range(len(label))), (len(label), *trainer.data.images.shape[1:]), sigmas[0], trainer.device)
    guided = cfg(denoiser, label, scale if trainer.network.config.num_classes else 1.0)
    with torch.inference_mode():
        return to_uint8(last(SAMPLERS["dpmpp-2m"].run(clipped(guided), x, sigmas))).cpu()


def main(argv: list[str] | None = None) -> int:
    config, args = parse(argv)
    out, begun = Path(args.out), time.perf_counter()
    try:
        whole = load_data(config.data, image_size=config.image_size or None)
        training, held_out = split(whole, seed=0)
        trainer = Trainer(config, training)
        if args.state and args.state.is_file():
            trainer.load_state(args.state)
    except ValueError as error:
        print(f"train_unet: {error}", file=sys.stderr)
        return 2
    stop = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.append(True))
    out.mkdir(parents=True, exist_ok=True)
    log_file = out / "log.jsonl"
    if trainer.step and log_file.is_file():  # lines after the saved state belong to steps that are run again
        kept = [line for line in log_file.read_text().splitlines() if json.loads(line)["step"] <= trainer.step]
        checkpoints.write_atomically(log_file, "".join(line + "\n" for line in kept))
    elif not trainer.step:
        log_file.unlink(missing_ok=True)

    def save() -> None:
        checkpoints.save(out, checkpoint_config(trainer), trainer.weights())
        trainer.save_state(out / "state.safetensors")

    def mark(log) -> None:
        loss = validation_loss(trainer, held_out)
        images = sample_grid(trainer)
        (out / "samples").mkdir(exist_ok=True)
        viz.save_png(viz.grid(images, columns=8), out / "samples" / f"{trainer.images:010d}.png")
        save()
        log.write(json.dumps({"step": trainer.step, "images": trainer.images, "validation_loss": loss}) + "\n")
        log.flush()
        print(f"  {trainer.images} images: validation loss {loss:.4f}, state saved", flush=True)

    marks, snaps = int(trainer.progress() * args.marks), int(trainer.progress() * args.snapshots)
    print(f"{describe(trainer.device)}; {len(training)} images of {trainer.data.name}; {out}", flush=True)
    with log_file.open("a") as log:
        for event in train(trainer, args.every, lambda: bool(stop) or time.perf_counter() - begun > args.max_seconds):
            row = dataclasses.asdict(event)
            row["loss_by_level"] = [round(v, 5) if math.isfinite(v) else None for v in event.loss_by_level]
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(
                f"{event.progress:6.1%}  step {event.step}  loss {event.loss:.4f}  |g| {event.grad_norm:.2f}  "
                f"lr {event.lr:.1e}  {event.images_per_s:.0f} images/s",
                flush=True,
            )
            if int(event.progress * args.marks) > marks:
                marks = int(event.progress * args.marks)
                mark(log)
            if int(event.progress * args.snapshots) > snaps:
                snaps = int(event.progress * args.snapshots)
                checkpoints.save(out / "snapshots" / f"{trainer.images:010d}", checkpoint_config(trainer), trainer.weights())
        save()
    print(f"{'stopped' if trainer.progress() < 1 else 'done'}: {out}, {trainer.images} images", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
