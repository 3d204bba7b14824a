#!/usr/bin/env python
"""Train a U-Net: a budget in, a checkpoint directory out.

    python train/train_unet.py --data mnist --preset tiny --minutes 30 --out runs/mnist
    python train/train_unet.py --data cifar10 --preset small --row v --schedule cosine --minutes 25 --out runs/cifar10

The directory holds config.json, weights.safetensors (the EMA), log.jsonl, samples/*.png, snapshots/ and state.safetensors,
from which --resume continues exactly. Ctrl-C saves and stops. Runs whose folders lie side by side take turns on a device.
`accelerate launch train/train_unet.py ...` trains the same batches on several GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import project
from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import sigma_grid
from ddpm_app.flags import add_flags, default_of, flag, read_flags
from ddpm_app.images import render
from ddpm_app.images.datasets import load_data, split
from ddpm_app.images.pixels import to_uint8
from ddpm_app.networks.device import describe, for_inference, pick_device
from ddpm_app.networks.unet import UNet
from ddpm_app.training import distributed, posthoc_ema, probe, process, trackers
from ddpm_app.training.config import FREE, RECIPES, TrainConfig
from ddpm_app.training.trainer import Trainer, train, validation_loss

COLUMNS = 4  # pictures a class in a sample grid
OVERHEAD = 0.02  # share of the trained time that validations and saving may take; the three at the thirds of the budget are always whole


def parse(argv: list[str] | None) -> tuple[TrainConfig, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, TrainConfig)
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="named settings, each overridden by its own flag")
    parser.add_argument("--out", help="directory of the run (needed unless --resume names one)")
    parser.add_argument("--resume", help="auto: continue in --out if it holds a state; or a run's directory")
    parser.add_argument("--init", help="begin from the weights of this checkpoint or snapshot directory (same preset and classes)")
    parser.add_argument("--now", action="store_true", help="start at once, even if another run beside --out trains on the device")
    parser.add_argument(
        "--probe", action="store_true", help="train nothing: measure this machine for some 15 s, print as JSON what fits the budget"
    )
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop, saved, after this many seconds of wall clock")
    parser.add_argument("--every", type=int, default=50, help="steps between log lines (default 50)")
    parser.add_argument("--every-seconds", type=float, default=5.0, help="seconds between log lines, if sooner (default 5)")
    parser.add_argument(
        "--validations",
        "--marks",
        type=int,
        default=20,
        help="validations over the budget, each with samples and a saved state (default 20)",
    )
    parser.add_argument("--snapshots", type=int, default=20, help="kept over the budget, and two early ones from ten on (default 20)")
    parser.add_argument("--track", default="", help="also log to: wandb, trackio, or both with a comma (TensorBoard always)")
    args = parser.parse_args(argv)
    given = read_flags(TrainConfig, args)
    settings = {**(RECIPES[args.recipe] if args.recipe else {}), **given}
    if args.resume and args.resume != "auto":
        args.out = args.out or args.resume
    for name, least in (("max_seconds", 0), ("every_seconds", 0), ("every", 1), ("validations", 0), ("snapshots", 0)):
        value, positive = getattr(args, name), isinstance(getattr(args, name), float)
        if not (value > least if positive else value >= least):
            parser.error(f"--{name.replace('_', '-')} is {value}; a number {'above' if positive else 'from'} {least} is accepted")
    if not args.out and not args.probe:
        parser.error("--out is needed")
    resume_from = Path(args.out if args.resume == "auto" else args.resume or "")
    args.state = resume_from / "state.safetensors" if args.resume else None
    stored = resume_from / "config.json"
    if args.resume and args.resume != "auto" and not args.state.is_file() and os.environ.get("RANK", "0") == "0":
        parser.error(f"--resume: {resume_from} holds no state.safetensors; --resume auto begins anew where there is none")
    if args.state and args.state.is_file() and stored.is_file():  # a resumed run keeps its settings; a budget may be given anew
        try:
            previous = dict(json.loads(stored.read_text())["training"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            parser.error(f"--resume: {stored} is damaged ({error})")
        previous = {"averages": "none", **previous}  # from before runs kept averages
        others = [k for k, v in settings.items() if k not in FREE and k in previous and previous[k] != v]
        if others:  # said before the run's own record is touched
            told = ", ".join(f"{flag(k)} {previous[k]}, not {settings[k]}" for k in others)
            parser.error(f"--resume: {resume_from} was begun with {told}; --init begins a new run from its weights")
        settings = {**previous, **settings}
        if "minutes" in given or "images" in given:
            settings |= {"minutes": given.get("minutes", 0.0), "images": given.get("images", 0)}
    if not args.probe and (Path(args.out) / "weights.safetensors").is_file() and os.environ.get("RANK", "0") == "0":
        own = args.resume and resume_from.resolve() == Path(args.out).resolve()
        if not own:
            parser.error(f"{args.out} holds a model already; --resume auto goes on with it, another --out begins a new run")
        if not args.state.is_file() and not (Path(args.out) / "job.json").is_file():  # a shipped model, not a run killed as it began
            parser.error(
                f"{args.out} holds a model and no state to go on from; --init {args.out} with another --out begins from its weights"
            )
    settings.setdefault("lr", default_of(TrainConfig, "lr", settings))
    try:
        return TrainConfig(**settings), args
    except (ValueError, TypeError) as error:
        parser.error(str(error))


def checkpoint_config(trainer: Trainer) -> checkpoint.CheckpointConfig:
    c = trainer.config
    return checkpoint.CheckpointConfig(
        network=trainer.network.config,
        schedule={"name": c.schedule, "T": c.T},
        row=c.row,
        data=trainer.data.name,
        classes=trainer.data.classes,
        images_seen=trainer.images,
        training=dataclasses.asdict(c),
        ema=trainer.ema.describe(),
    )


def sample_grid(trainer: Trainer, per_class: int = COLUMNS, evaluations: int = 12, scale: float = 1.5) -> torch.Tensor:
    """uint8 (rows * per_class, C, H, W): one row a class (at most ten), fixed seeds, from the EMA weights. Several processes share
    the pictures out between them."""
    network = UNet(trainer.network.config)
    network.load_state_dict({k: v.float() for k, v in trainer.weights().items()})
    denoiser = Denoiser(for_inference(network, trainer.device, trainer.dtype), trainer.denoiser.schedule, trainer.config.row)
    classes = min(trainer.network.config.num_classes, 10) or 1
    shared = classes * per_class >= trainer.world.size
    part = trainer.world.slice(classes * per_class) if shared else slice(0, classes * per_class)
    label = torch.arange(classes, device=trainer.device).repeat_interleave(per_class)[part]
    sigmas = sigma_grid(denoiser.schedule, evaluations)
    x, noise = start(range(part.start, part.stop), (len(label), *trainer.data.images.shape[1:]), sigmas, trainer.device)
    guided = cfg(denoiser, label, scale if trainer.network.config.num_classes else 1.0)
    with torch.inference_mode():
        images = to_uint8(last(SAMPLERS["dpmpp-2m"].steps(clipped(guided), x, sigmas, noise)))
    return trainer.world.gather(images) if shared else images.cpu()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: done, or stopped and saved; 2: the request was wrong; 3: the loss is no number; 4: the disk is full."""
    config, args = parse(argv)
    try:
        trackers.check(args.track)
        world = distributed.join(config.device)
        config = world.same(config)
        world.slice(config.batch)
    except ValueError as error:
        print(f"train_unet: {error}", file=sys.stderr)
        return 2
    if args.probe:
        try:
            print(json.dumps(probe.plan(config)))
            return 0
        except ValueError as error:
            print(f"train_unet: {error}", file=sys.stderr)
            return 2
    stop = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.append(True))
    try:
        mine = (Path(args.out), sys.argv[1:] if argv is None else argv, dataclasses.asdict(config))
        run_process = process.RunProcess(*mine) if world.main else process.Follower(mine[0])
    except (ValueError, OSError) as error:
        print(f"train_unet: {error}", file=sys.stderr)
        return 2
    try:
        begun = time.perf_counter()  # the wait for a turn and pauses count, too
        run_process.end(work(config, args, run_process, lambda: bool(stop) or time.perf_counter() - begun > args.max_seconds, world))
        world.close()
        return 0
    except (ValueError, FloatingPointError, process.DiskFull) as error:
        run_process.end("failed", str(error))
        print(f"train_unet: {error}", file=sys.stderr)
        return {FloatingPointError: 3, process.DiskFull: 4}.get(type(error), 2)
    except Exception as error:
        if not world.main:  # most likely rank 0 has left, having said why
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            print(f"train_unet: process {world.rank} ends with the others ({why})", file=sys.stderr)
            return 1
        run_process.end(
            "failed", str(process.explain_full(run_process.folder, 2**20)) if process.is_full(error) else f"{type(error).__name__}: {error}"
        )
        raise
    finally:
        run_process.close()


def work(
    config: TrainConfig, args: argparse.Namespace, run_process: process.RunProcess, told: Callable[[], bool], world: distributed.World
) -> str:
    """Train to the end or until told() to stop: "finished" or "stopped". Of several processes rank 0 alone reads and writes files."""
    out = run_process.folder
    device = pick_device(config.device)
    say = functools.partial(print, flush=True) if world.main else lambda *_: None
    if world.any(not args.now and not run_process.wait_for_device(process.device_key(device), told, say)):
        return "stopped"
    if not world.main:
        world.wait()  # rank 0 may have to download the data first
    data = load_data(config.data, image_size=config.image_size or None)
    training, held_out = split(data, seed=0)
    if world.main:
        world.wait()
    if len(data) == 1:
        say(f"{config.data} holds one image: the validation loss is of the image that is trained on")
    del data  # the two parts are copies
    trainer = Trainer(config, training, world)
    run_process.record(machine=describe(trainer.device) + (f", {world.size} processes" if world.size > 1 else ""))
    if not world.main:
        pass  # rank 0 shares what it reads
    elif args.state and args.state.is_file():
        trainer.load_state(args.state)
    elif args.init:
        source = checkpoint.open_checkpoint(args.init)
        theirs, mine = dataclasses.asdict(source.config.network), dataclasses.asdict(trainer.network.config)
        if apart := [f"{k} {theirs[k]} instead of {mine[k]}" for k in mine if k != "dropout" and theirs[k] != mine[k]]:
            raise ValueError(f"--init: {args.init} is another network: {', '.join(apart)}")
        weights = checkpoint.read_weights(source.path)
        checkpoint.check_keys(weights, trainer.network, args.init)
        trainer.init_weights(weights)
    distributed.share(trainer, world)
    log_file = out / "log.jsonl" if world.main else Path(os.devnull)
    if trainer.step and world.main and log_file.is_file():  # lines after the saved state belong to steps that are run again
        files.write_atomically(log_file, "".join(line + "\n" for line in whole_lines(log_file, trainer.step)))
    elif not trainer.step and world.main:
        log_file.unlink(missing_ok=True)
    run_process.discard_after(trainer.images)

    def save(folder: Path = out, state: bool = True) -> None:
        trainer.check_finite()
        if not world.main:
            return
        need = trainer.state_bytes() * (10 if state else 4) // 8
        try:
            process.need_room(out, need)
            if not state and trainer.averages:
                averages = {a: trainer.weights(average=a) for a in trainer.averages}
                posthoc_ema.save_averages(folder, trainer.step, trainer.weights(), trainer.weights(ema=False), averages)
            checkpoint.save(folder, checkpoint_config(trainer), trainer.weights())
            if state:
                trainer.save_state(out / "state.safetensors")
        except Exception as error:
            if process.is_full(error):
                raise process.explain_full(folder, need) from error
            raise

    drawn, spent, unlogged = trainer.progress(), 0.0, 0.0  # spent: seconds this process did not train
    takes = {"held": 0.0, "grid": 0.0}  # seconds, when last done

    def validate(log) -> None:
        nonlocal drawn, unlogged
        left = OVERHEAD * (trainer.seconds - at_start) - spent
        affordable = (left >= takes["held"]) + (left >= takes["held"] + takes["grid"])  # 0: the state only, 1: and the loss, 2: all
        if int(3 * trainer.progress()) > int(3 * drawn):
            affordable = 2
        affordable = int(world.says(float(affordable))[0])
        row, at = {"step": trainer.step, "images": trainer.images}, time.perf_counter()
        if affordable:
            row["validation_loss"] = validation_loss(trainer, held_out)
            takes["held"] = time.perf_counter() - at
        if affordable == 2:
            drawn = trainer.progress()
            picture = render.grid(sample_grid(trainer), columns=COLUMNS)
            if world.main:
                (out / "samples").mkdir(exist_ok=True)
                render.save_png(picture, out / "samples" / f"{trainer.images:010d}.png")
                tracked.picture(picture, trainer.step)
            takes["grid"] = time.perf_counter() - at - takes["held"]
        row["overhead_seconds"] = round(spent - unlogged, 3)
        log.write(json.dumps(row) + "\n")
        log.flush()
        tracked.log(row)
        unlogged = spent
        save()  # after the line: a line without its state is dropped when the run resumes, a state without its line never mends
        held = f"validation loss {row['validation_loss']:.4f}, " if affordable else ""
        say(f"  {trainer.images} images: {held}state saved")

    def should_stop() -> bool:
        run_process.pause_if_asked(save, told)
        return told()

    at_start = trainer.seconds
    validations, points = int(trainer.progress() * args.validations), posthoc_ema.snapshot_points(args.snapshots)
    snaps = sum(p <= trainer.progress() for p in points)
    several = f", {world.size} processes" if world.size > 1 else ""
    say(f"{describe(trainer.device)}{several}; {len(training)} images of {trainer.data.name}; {out}")
    if trouble := trainer.compile():
        say(trouble)
    if not trainer.step or not (out / "state.safetensors").is_file():  # begun, here or from another run's state
        save()  # a kill before the first validation finds something to resume
    tracking = trackers.Trackers(args.track, out, dataclasses.asdict(config), trainer.step, say, world.main)
    with tracking as tracked, log_file.open("a") as log:
        for event in train(trainer, args.every, should_stop, args.every_seconds):
            event_at = time.perf_counter()
            row = dataclasses.asdict(event) | memory(trainer.device)
            row["loss_by_level"] = [round(v, 5) if math.isfinite(v) else None for v in event.loss_by_level]
            log.write(json.dumps(row) + "\n")
            log.flush()
            tracked.log(row)
            say(
                f"{event.progress:6.1%}  step {event.step}  loss {event.loss:.4f}  |g| {event.grad_norm:.2f}  "
                f"lr {event.lr:.1e}  {event.images_per_s:.0f} images/s"
            )
            if (passed := sum(p <= event.progress for p in points)) > snaps:
                snaps = passed
                save(out / "snapshots" / f"{trainer.images:010d}", state=False)
            if int(event.progress * args.validations) > validations:
                validations = int(event.progress * args.validations)
                validate(log)
            spent += time.perf_counter() - event_at
        save()
    done = trainer.progress() >= 1
    share = spent / max(trainer.seconds - at_start + spent, 1e-9)
    say(f"{'done' if done else 'stopped'}: {out}, {trainer.images} images; {spent:.1f} s ({share:.1%}) went into validating and saving")
    return "finished" if done else "stopped"


def whole_lines(log: Path, step: int) -> list[str]:
    """The log's lines up to a step; one cut short by a kill is none."""
    kept = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def memory(device: torch.device) -> dict:
    """{"memory_mb": the most this process took}: of the GPU, or of main memory on Linux."""
    if device.type == "cuda":
        return {"memory_mb": torch.cuda.max_memory_reserved(device) / 1e6}
    if sys.platform != "linux":
        return {}
    import resource

    return {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


if __name__ == "__main__":
    project.run(main)
