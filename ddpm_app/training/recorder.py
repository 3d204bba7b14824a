"""One training run from start to end: what is loaded, the loop, and what is written into the run's folder.

log.jsonl                           a line for each TrainEvent and for each validation
samples/IMAGES.png                  a grid of samples for each validation, named by the images seen
snapshots/IMAGES/                   checkpoints along the run, with stored averages (posthoc_ema.py)
config.json, weights.safetensors    the run's checkpoint: its EMA weights
state.safetensors                   the state from which --resume continues with the same steps
tensorboard/                        event files (trackers.py)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ddpm_app import files
from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints import weights as checkpoints_weights
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import sigma_grid
from ddpm_app.images import render
from ddpm_app.images.datasets import ImageData, load_data, split
from ddpm_app.images.pixels import to_uint8
from ddpm_app.networks.device import describe, for_inference, pick_device
from ddpm_app.networks.unet import UNet
from ddpm_app.training import distributed, posthoc_ema, process, trackers
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.trainer import Trainer, TrainEvent, train
from ddpm_app.training.tuning import find_model, make_trainer
from ddpm_app.training.validation import averaged

COLUMNS = 4  # images of each class in a sample grid
UNMEASURED = ("step", "images", "validation_loss", "overhead_seconds")  # the other fields of a validation's line are options.measure's
OVERHEAD = 0.02  # share of the training time that logging, validating and saving may take


@dataclass(frozen=True)
class RunOptions:
    """How a run starts and what it records. TrainConfig holds the rest.

    state            saved state to continue from; where the file does not exist, the run starts from the beginning
    init             checkpoint or snapshot directory whose weights the run starts with; "" for random weights
    now              True: train at once, even while another run trains on the device
    every            steps between log lines
    every_seconds    seconds between log lines, if that is sooner
    validations      validations over the budget
    snapshots        snapshots over the budget
    track            names of trackers beside TensorBoard, separated by commas
    measure          measures the denoiser of the EMA weights at the validations; its numbers are added to the log line
    """

    state: Path | None = None
    init: str = ""
    now: bool = False
    every: int = 50
    every_seconds: float = 5.0
    validations: int = 20
    snapshots: int = 20
    track: str = ""
    measure: Callable[[Denoiser], dict[str, float]] | None = None


def run(
    config: TrainConfig,
    options: RunOptions,
    run_process: process.RunProcess | process.Follower,
    should_stop: Callable[[], bool],
    world: distributed.World,
) -> str:
    """Train until the budget is used or should_stop() returns True. Returns "finished" or "stopped".

    If several processes train together (world), only rank 0 reads and writes files. Raises ValueError for settings or files that
    cannot be used, FloatingPointError when the loss is not a number, process.DiskFull.
    """
    say = functools.partial(print, flush=True) if world.main else lambda *_: None
    device = process.device_key(pick_device(config.device))
    if world.any(not options.now and not run_process.wait_for_device(device, should_stop, say)):
        return "stopped"
    training, held_out = load(config, world, say)
    trainer = make_trainer(config, training, world)
    machine = describe(trainer.device) + (f", {world.size} processes" if world.size > 1 else "")
    run_process.record(machine=machine)
    if world.main:
        initialize(trainer, options)
    distributed.share(trainer, world)
    run_process.discard_after(trainer.images)
    say(f"{machine}; {len(training)} images of {trainer.data.name}; {run_process.folder}")
    if problem := trainer.compile():
        say(problem)

    with Recorder(trainer, held_out, run_process.folder, options, say) as recorder:

        def pause_or_stop() -> bool:
            run_process.pause_if_asked(recorder.save, should_stop)
            return should_stop()

        for event in train(trainer, options.every, pause_or_stop, options.every_seconds):
            recorder.record(event)
        recorder.save()
    finished = trainer.progress() >= 1
    say(f"{'done' if finished else 'stopped'}: {run_process.folder}, {trainer.images} images; {recorder.overhead()}")
    return "finished" if finished else "stopped"


def load(config: TrainConfig, world: distributed.World, say: Callable[[str], None]) -> tuple[ImageData, ImageData]:
    """(training images, held-out images) of the run's data set."""
    if not world.main:
        world.wait()  # rank 0 may have to download the data first
    data = load_data(config.data, image_size=config.image_size or None)
    training, held_out = split(data, seed=0)
    if world.main:
        world.wait()
    if len(data) == 1:
        say(f"{config.data} holds one image: the validation loss is measured on the image that is trained on")
    return training, held_out


def initialize(trainer: Trainer, options: RunOptions) -> None:
    """Continue from the saved state, or start with the weights of another checkpoint, if the options name one. Raises ValueError."""
    if options.state and options.state.is_file():
        trainer.load_state(options.state)
    elif init := options.init or trainer.config.teacher:
        source = find_model(init)
        there, here = dataclasses.asdict(source.config.network), dataclasses.asdict(trainer.network.config)
        if differences := [f"{k} {there[k]} instead of {here[k]}" for k in here if k != "dropout" and there[k] != here[k]]:
            raise ValueError(f"{'--init' if options.init else '--teacher'}: {init} is another network: {', '.join(differences)}")
        weights = checkpoints_weights.read_weights(source.path)
        checkpoints_weights.check_weights(weights, trainer.network, init)
        trainer.init_weights(weights)


class Recorder:
    """Writes what happens in a run into its folder. Open it with `with`, then call record(event) for each TrainEvent.

    trainer     the run's state
    held_out    images for the validation loss
    folder      the run's folder
    options     how often to validate and to keep snapshots
    say         prints a line; prints nothing in the processes of rank 1 and up, which write no files either
    """

    def __init__(self, trainer: Trainer, held_out: ImageData, folder: Path, options: RunOptions, say: Callable[[str], None]):
        self.trainer, self.held_out, self.folder, self.options, self.say = trainer, held_out, folder, options, say
        self.snapshot_points = posthoc_ema.snapshot_points(options.snapshots)
        self.snapshots, self.validations = self._due(trainer.progress())  # numbers of those done
        self.progress_at_grid = trainer.progress()  # when the last sample grid was made
        self.seconds_at_start = trainer.seconds
        self.spent, self.spent_logged = 0.0, 0.0  # seconds spent here instead of training; how many of them the log holds
        self.loss_seconds, self.grid_seconds = 0.0, 0.0  # how long the last validation loss and sample grid took

    def __enter__(self) -> Recorder:
        trainer, log = self.trainer, self.folder / "log.jsonl"
        if not trainer.world.main:
            log = Path(os.devnull)
        elif trainer.step and log.is_file():  # later lines belong to steps that will be trained again
            files.write_atomically(log, "".join(line + "\n" for line in lines_up_to(trainer.step, log)))
        elif not trainer.step:
            log.unlink(missing_ok=True)
        if not trainer.step or not (self.folder / "state.safetensors").is_file():
            self.save()  # a run that is killed before its first validation can be resumed, too
        settings = dataclasses.asdict(trainer.config)
        self.trackers = trackers.Trackers(self.options.track, self.folder, settings, trainer.step, self.say, trainer.world.main)
        self.log = log.open("a")
        return self

    def __exit__(self, *_) -> None:
        self.log.close()
        self.trackers.close()

    def record(self, event: TrainEvent) -> None:
        """Log the event; save a snapshot and validate where they are due."""
        started = time.perf_counter()
        self.log_event(event)
        snapshots, validations = self._due(event.progress)
        if snapshots > self.snapshots:
            self.snapshots = snapshots
            self.save_snapshot()
        if validations > self.validations:
            self.validations = validations
            self.validate()
        self.spent += time.perf_counter() - started

    def _due(self, progress: float) -> tuple[int, int]:
        """(snapshots, validations) that are due up to this share of the budget."""
        return sum(point <= progress for point in self.snapshot_points), int(progress * self.options.validations)

    def log_event(self, event: TrainEvent) -> None:
        row = dataclasses.asdict(event) | peak_memory(self.trainer.device)
        row["loss_by_level"] = [round(v, 5) if math.isfinite(v) else None for v in event.loss_by_level]
        self._write(row)
        self.say(
            f"{event.progress:6.1%}  step {event.step}  loss {event.loss:.4f}  |g| {event.grad_norm:.2f}  "
            f"lr {event.lr:.1e}  {event.images_per_s:.0f} images/s"
        )

    def validate(self) -> None:
        """Measure the validation loss, draw a sample grid and save. The loss and the grid are left out when they would exceed
        OVERHEAD, except at each third of the budget."""
        trainer, row = self.trainer, {"step": self.trainer.step, "images": self.trainer.images}
        with_loss, with_grid = self._affordable()
        started = time.perf_counter()
        if with_loss:
            row["validation_loss"] = trainer.validation(self.held_out)
            self.loss_seconds = time.perf_counter() - started
        if with_grid:
            self.save_grid()
            if self.options.measure and trainer.world.main:
                with averaged(trainer) as denoiser:
                    row |= self.options.measure(denoiser)
            self.grid_seconds = time.perf_counter() - started - self.loss_seconds
        row["overhead_seconds"] = round(self.spent - self.spent_logged, 3)
        self.spent_logged = self.spent
        self._write(row)
        self.save()  # after the log line: a resumed run removes a line without its state, but could not add a missing line
        loss = f"validation loss {row['validation_loss']:.4f}, " if with_loss else ""
        loss += "".join(f"{name} {value:.4g}, " for name, value in row.items() if name not in UNMEASURED)
        self.say(f"  {trainer.images} images: {loss}state saved")

    def _affordable(self) -> tuple[float, float]:
        """Whether the validation loss and the sample grid are to be made: 1.0 or 0.0 each, the same in all processes."""
        trainer = self.trainer
        seconds_left = OVERHEAD * (trainer.seconds - self.seconds_at_start) - self.spent
        at_a_third = int(3 * trainer.progress()) > int(3 * self.progress_at_grid)
        with_loss = at_a_third or seconds_left >= self.loss_seconds
        with_grid = at_a_third or seconds_left >= self.loss_seconds + self.grid_seconds
        return trainer.world.says(float(with_loss), float(with_grid))

    def save_grid(self) -> None:
        self.progress_at_grid = self.trainer.progress()
        grid = render.grid(sample_grid(self.trainer), columns=COLUMNS)  # all processes make a part of it
        if self.trainer.world.main:
            (self.folder / "samples").mkdir(exist_ok=True)
            render.save_png(grid, self.folder / "samples" / f"{self.trainer.images:010d}.png")
            self.trackers.picture(grid, self.trainer.step)

    def save_snapshot(self) -> None:
        """A checkpoint of its own, with the raw weights and the averages beside it."""
        self._save(self.folder / "snapshots" / f"{self.trainer.images:010d}", with_state=False)

    def save(self) -> None:
        """The run's checkpoint, and the state to resume from."""
        self._save(self.folder, with_state=True)

    def _save(self, folder: Path, with_state: bool) -> None:
        """Raises FloatingPointError if a weight is not a number, process.DiskFull."""
        trainer = self.trainer
        trainer.check_finite()
        if not trainer.world.main:
            return
        need = trainer.state_bytes() * (10 if with_state else 4) // 8
        try:
            process.need_room(self.folder, need)
            if not with_state and trainer.averages:
                averages = {length: trainer.weights(average=length) for length in trainer.averages}
                posthoc_ema.save_averages(folder, trainer.step, trainer.weights(), trainer.weights(ema=False), averages)
            checkpoint.save(folder, checkpoint_config(trainer), trainer.weights())
            if with_state:
                trainer.save_state(folder / "state.safetensors")
        except Exception as error:
            if process.is_full(error):
                raise process.explain_full(folder, need) from error
            raise

    def _write(self, row: dict) -> None:
        self.log.write(json.dumps(row) + "\n")
        self.log.flush()
        self.trackers.log(row)

    def overhead(self) -> str:
        """How long record() has taken, as a sentence."""
        share = self.spent / max(self.trainer.seconds - self.seconds_at_start + self.spent, 1e-9)
        return f"{self.spent:.1f} s ({share:.1%}) went into validating and saving"


def checkpoint_config(trainer: Trainer) -> checkpoint.CheckpointConfig:
    """What the run's checkpoints and snapshots store beside the weights."""
    config = trainer.config
    return checkpoint.CheckpointConfig(
        network=trainer.network.config,
        schedule={"name": config.schedule, "T": config.T},
        prediction_type=config.prediction_type,
        data=trainer.data.name,
        classes=trainer.data.classes,
        images_seen=trainer.images,
        training=dataclasses.asdict(config),
        ema=trainer.ema.describe(),
        **({"tuned_for": config.tuned_for, "guidance": config.teacher_guidance} if config.teacher else {}),
    )


def sample_grid(trainer: Trainer, per_class: int = COLUMNS, evaluations: int = 12, scale: float = 1.5) -> torch.Tensor:
    """Samples of the EMA weights, uint8 (classes * per_class, C, H, W), at most ten classes, always from the same seeds.

    If several processes train together, each makes a part."""
    network = UNet(trainer.network.config)
    network.load_state_dict({k: v.float() for k, v in trainer.weights().items()})
    denoiser = Denoiser(for_inference(network, trainer.device, trainer.dtype), trainer.denoiser.schedule, trainer.config.prediction_type)
    classes = min(trainer.network.config.num_classes, 10) or 1
    shared = classes * per_class >= trainer.world.size
    part = trainer.world.slice(classes * per_class) if shared else slice(0, classes * per_class)
    label = torch.arange(classes, device=trainer.device).repeat_interleave(per_class)[part]
    tuned_for = trainer.config.tuned_for if trainer.config.teacher else 0
    sigmas = sigma_grid(denoiser.schedule, tuned_for or evaluations)
    x, noise = start(range(part.start, part.stop), (len(label), *trainer.data.images.shape[1:]), sigmas, trainer.device)
    guided = cfg(denoiser, label, scale if trainer.network.config.num_classes and not tuned_for else 1.0)
    with torch.inference_mode():
        images = to_uint8(last(SAMPLERS["consistency" if tuned_for else "dpmpp-2m"].steps(clipped(guided), x, sigmas, noise)))
    return trainer.world.gather(images) if shared else images.cpu()


def lines_up_to(step: int, log: Path) -> list[str]:
    """The lines of log.jsonl up to a step. A last line that a kill has cut short is left out."""
    lines = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return lines


def peak_memory(device: torch.device) -> dict[str, float]:
    """{"memory_mb": the most memory this process has used}, of the GPU, or of the machine on Linux; {} elsewhere."""
    if device.type == "cuda":
        return {"memory_mb": torch.cuda.max_memory_reserved(device) / 1e6}
    if sys.platform != "linux":
        return {}
    import resource  # does not exist on Windows

    return {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
