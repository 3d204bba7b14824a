"""The training step and the training loop.

Each step draws its randomness from (seed, step) alone, so that a resumed run takes exactly the steps of an uninterrupted one.
Data, augmentation and noise are on the training device. Nothing is copied back from it between two events.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.names import rename_row
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.files import save_tensors
from ddpm_app.flags import default_of
from ddpm_app.images.datasets import GLYPHS, ImageData
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import keep_freed_memory, memory_format, pick_device, pick_dtype
from ddpm_app.networks.ema import Ema, average_lengths
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import preset_config
from ddpm_app.training.compile import StepGraph, compile_step
from ddpm_app.training.config import CHANGEABLE, TrainConfig
from ddpm_app.training.distributed import World
from ddpm_app.training.validation import validation_loss

BANDS = 10  # noise bands the loss is reported in: equal parts of t


@dataclass(frozen=True)
class TrainEvent:
    """What train() reports.

    step            optimiser steps so far
    images          training images seen so far
    seconds         training time so far
    progress        share of the budget used, 0 to 1
    loss            mean since the last event
    loss_by_level   (10,) the same for each noise band; NaN for a band without samples
    lr              current learning rate
    images_per_s    speed since the last event
    grad_norm       mean gradient norm before clipping, since the last event
    """

    step: int
    images: int
    seconds: float
    progress: float
    loss: float
    loss_by_level: list[float]
    lr: float
    images_per_s: float
    grad_norm: float


class Trainer:
    """The state of a run: network, optimiser, EMA, the averages for posthoc_ema.py, step, images, seconds. save_state stores all of it."""

    def __init__(self, config: TrainConfig, data: ImageData, world: World | None = None):
        """world: the processes that train together (distributed.py); None: only this one."""
        self.config, self.world = config, world or World()
        self.part = self.world.slice(config.batch)  # this process's slice of each batch
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(self.device, config.precision)
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.backends.cudnn.benchmark = (
            True  # every batch has the same shape, so that the search for the fastest kernels is worth its time
        )
        self.data = data.to(self.device)
        torch.manual_seed(config.seed)
        extra = {} if config.dropout < 0 else {"dropout": config.dropout}
        classes = 0 if config.label_dropout == 1 else len(data.classes)  # labels are always dropped: an unconditional network
        network_config = preset_config(
            config.preset, image_size=data.images.shape[-1], in_channels=data.images.shape[1], num_classes=classes, **extra
        )
        self.network = UNet(network_config).to(self.device, memory_format=memory_format(self.device, self.dtype)).train()
        self.denoiser = Denoiser(self.network, make_schedule(config.schedule, config.T), config.prediction_type)
        self.parameters = list(self.network.parameters())
        # fused kernels exist for CUDA and the CPU; elsewhere PyTorch decides
        kind = self.device.type
        fused = {"fused": True, "capturable": kind == "cuda"} if kind in ("cuda", "cpu") else {}
        self.lr = config.lr  # of the last step
        # as a tensor it can be changed between two replays of a CUDA graph; fused AdamW takes it as float32 on CUDA and float64 on a CPU
        self._lr = torch.tensor(config.lr, device=self.device, dtype=torch.float32 if kind == "cuda" else torch.float64) if fused else None
        self.optimiser = torch.optim.AdamW(
            self.parameters, config.lr if self._lr is None else self._lr, weight_decay=config.weight_decay, **fused
        )
        self.ema = Ema(self.parameters, config.ema)
        # by length; includes self.ema if the run's EMA has one of these lengths
        lengths = average_lengths(config.averages)
        self.averages = {a: self.ema if a == config.ema else Ema(self.parameters, a) for a in lengths}
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.flip = config.flip == "yes" or (config.flip == "auto" and data.name not in GLYPHS)
        self.generator = torch.Generator(self.device)
        self._order: tuple[int, Tensor] | None = None
        self._inputs: tuple[Tensor, ...] = ()  # of the current step: x0, t, eps, label
        self._decays = [torch.zeros((), device=self.device) for _ in self.emas]
        self.graph: StepGraph | None = None

    compile = compile_step

    def record(self) -> None:
        """Record update() as a CUDA graph. Raises RuntimeError where that does not work; the state is unchanged."""
        self.graph = None
        self._prepare()
        self.graph = StepGraph(self.update, self._changed)

    def _changed(self) -> list[Tensor]:
        """Every tensor that update() changes, but for the gradients."""
        moments = [v for state in self.optimiser.state.values() for v in state.values()]
        return [*self.parameters, *moments, *(v for ema in self.emas for v in ema.values)]

    # -- one step ---------------------------------------------------------------------------------------------------

    def progress(self) -> float:
        c = self.config
        return min(self.seconds / (60 * c.minutes) if c.minutes else self.images / c.images, 1.0)

    def learning_rate(self) -> float:
        c = self.config
        warmup = min(c.warmup, c.images // 10) if c.images else c.warmup
        up = min((self.images + c.batch) / warmup, 1.0) if warmup else 1.0
        return c.lr * up * ((1 - self.progress()) if c.decay == "linear" else 1.0)

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x0, t, eps, label) of the current step, drawn from (seed, step) alone. With several processes: this one's slice."""
        c, g, part = self.config, self.generator, self.part
        # each step has its own stream; the generator decorrelates consecutive seeds
        g.manual_seed((c.seed * 0x9E3779B1 + self.step * 2 + 1) % 2**63)
        index = torch.cat([self._epoch(k)[a:b] for k, a, b in self._pieces()])
        x0, label = to_model(self.data.images[index[part]]), self.data.labels[index[part]]
        if self.flip:
            mirror = torch.rand(len(index), generator=g, device=self.device)[part] < 0.5
            x0 = torch.where(mirror[:, None, None, None], x0.flip(3), x0)
        t = torch.randint(0, c.T, (len(index),), generator=g, device=self.device)[part]
        eps = torch.randn((len(index), *x0.shape[1:]), generator=g, device=self.device)[part]
        dropped = torch.rand(len(index), generator=g, device=self.device)[part] < c.label_dropout
        return x0, t, eps, torch.where(dropped, len(self.data.classes), label)

    def _pieces(self) -> list[tuple[int, int, int]]:
        """The batch as pieces (epoch, start, end) of the epochs' orders. Each image comes once in an epoch."""
        n, position, left, pieces = len(self.data), self.images, self.config.batch, []
        while left:
            start = position % n
            take = min(left, n - start)
            pieces.append((position // n, start, start + take))
            position, left = position + take, left - take
        return pieces

    def _epoch(self, k: int) -> Tensor:
        """The order of the images in epoch k, (N,) int64."""
        if self._order is None or self._order[0] != k:
            g = torch.Generator().manual_seed((self.config.seed << 20) + k)
            order = torch.randperm(len(self.data), generator=g)
            order = order.pin_memory() if self.device.type == "cuda" else order  # copied without waiting
            self._order = (k, order.to(self.device, non_blocking=True))
        return self._order[1]

    def train_step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step. Returns on the device: the loss of each sample (B,), its noise band (B,), the gradient norm (). B: this
        process's slice. Does not wait for the device (tests/bench/test_bench.py checks this)."""
        self._prepare()
        losses, norm = (self.graph or self.update)()
        self.step += 1
        self.images += self.config.batch
        return losses, self.bands(), norm

    def _prepare(self) -> None:
        """Write what differs from step to step into the tensors that update() reads: batch, learning rate, decays of the EMAs."""
        c = self.config
        values = self.batch()
        if [v.shape for v in values] != [v.shape for v in self._inputs]:
            self._inputs = tuple(torch.empty_like(v) for v in values)
        torch._foreach_copy_(self._inputs, values)
        for ema, decay in zip(self.emas, self._decays, strict=True):
            decay.fill_(ema.decay(self.step + 1))
        torch.manual_seed(c.seed * 0x9E3779B1 + self.step + self.world.rank * 0x632BE59B)  # each process has its own dropout masks
        self.lr = self.learning_rate()
        if self._lr is None:
            self.optimiser.param_groups[0]["lr"] = self.lr
        else:
            self._lr.fill_(self.lr)

    def update(self) -> tuple[Tensor, Tensor]:
        """The part of a step that a CUDA graph can record: no decision on data, no waiting, the same tensors each time.

        Reads self._inputs, self._decays and self._lr; changes the weights, the optimiser's state and the EMAs.
        Returns the losses (B,) and the gradient norm ()."""
        c, world = self.config, self.world
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.loss(*self._inputs)
        self.optimiser.zero_grad(set_to_none=True)
        if world.size == 1:
            losses.mean().backward()
        else:  # gradients are added up before they are clipped
            (losses.mean() * ((self.part.stop - self.part.start) / c.batch)).backward()
            world.add(*(p.grad for p in self.parameters))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.clip)
        self.optimiser.step()
        for ema, decay in zip(self.emas, self._decays, strict=True):
            ema.update(self.parameters, decay)
        return losses.detach(), norm

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
        """The loss of each sample of a batch (B,), with gradients. Its arguments are what batch() returns."""
        return self.denoiser.loss(x0, t, eps, label, self.config.weight)

    def bands(self) -> Tensor:
        """The noise band of each sample of the current step (B,)."""
        return self._inputs[1] * BANDS // self.config.T

    def validation(self, data: ImageData) -> float:
        """The loss of the EMA weights on held-out images."""
        return validation_loss(self, data)

    # -- saved state ------------------------------------------------------------------------------------------------

    @property
    def emas(self) -> list[Ema]:
        return [self.ema, *(a for a in self.averages.values() if a is not self.ema)]

    def weights(self, ema: bool = True, average: float | None = None) -> dict[str, Tensor]:
        """The run's EMA, the raw weights, or one of the averages by its length."""
        values = self.averages[average].values if average else self.ema.values if ema else [p.detach() for p in self.parameters]
        return dict(zip((name for name, _ in self.network.named_parameters()), values))

    def init_weights(self, weights: dict[str, Tensor]) -> None:
        """Start with these weights and a new optimiser and EMA. Names and shapes must be the network's (checkpoint.check_weights)."""
        with torch.no_grad():
            for k, (name, p) in enumerate(self.network.named_parameters()):
                for value in (p, *(ema.values[k] for ema in self.emas)):
                    value.copy_(weights[name])

    def check_finite(self) -> None:
        """Raise FloatingPointError if a weight is not finite, so that such a state never replaces a good one."""
        if not all(bool(torch.isfinite(v).all()) for v in (*self.parameters, *(v for ema in self.emas for v in ema.values))):
            raise FloatingPointError(f"a weight is not finite at step {self.step}; the last saved state is intact")

    def state_bytes(self) -> int:
        """About how many bytes save_state writes: raw weights, averages and two moments in float32."""
        return (12 + 4 * len(self.emas)) * sum(p.numel() for p in self.parameters) + 2**20

    def save_state(self, file: Path) -> None:
        """Raw weights, EMA, optimiser moments and counters in one safetensors file, replaced atomically."""
        tensors = {}
        for k, p in enumerate(self.parameters):
            state = self.optimiser.state.get(p, {})
            tensors |= {f"raw.{k}": p, f"ema.{k}": self.ema.values[k]}
            tensors |= {f"ema-{a:g}.{k}": ema.values[k] for a, ema in self.averages.items() if ema is not self.ema}
            tensors |= {f"{key}.{k}": state[key] for key in ("exp_avg", "exp_avg_sq", "step") if key in state}
        meta = {"step": self.step, "images": self.images, "seconds": self.seconds, "config": dataclasses.asdict(self.config)}
        save_tensors(file, tensors, {"ddpm-studio": json.dumps(meta)})

    def load_state(self, file: Path) -> None:
        """Continue from a saved state. Only the settings in config.CHANGEABLE may differ from its own. Raises ValueError."""
        try:
            self._load_state(file)
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{file}: the saved state is incomplete or of another network ({error})") from error

    def _load_state(self, file: Path) -> None:
        with safe_open(file, "pt") as f:
            meta = json.loads(f.metadata()["ddpm-studio"])
            settings = dataclasses.asdict(self.config)
            defaults = {k: default_of(TrainConfig, k, settings) for k in settings}  # of fields that are newer than the state
            stored = {**defaults, "averages": "none", **rename_row(meta["config"])}  # older states have no averages
            differs = [k for k in settings if k not in CHANGEABLE and stored.get(k) != settings[k]]
            if differs:
                raise ValueError(f"{file} was trained with other settings: {', '.join(differs)}")
            with torch.no_grad():
                for k, p in enumerate(self.parameters):
                    p.copy_(f.get_tensor(f"raw.{k}"))
                    self.ema.values[k].copy_(f.get_tensor(f"ema.{k}"))
                    for a, ema in self.averages.items():
                        if ema is not self.ema:
                            ema.values[k].copy_(f.get_tensor(f"ema-{a:g}.{k}"))
                    if f"step.{k}" in f.keys():
                        moments = {key: torch.empty_like(p).copy_(f.get_tensor(f"{key}.{k}")) for key in ("exp_avg", "exp_avg_sq")}
                        counter = f.get_tensor(f"step.{k}").to(self.device if self.device.type == "cuda" else "cpu")
                        self.optimiser.state[p] = {"step": counter, **moments}
        self.step, self.images, self.seconds = meta["step"], meta["images"], meta["seconds"]


def train(
    trainer: Trainer, every: int = 50, should_stop: Callable[[], bool] = lambda: False, every_seconds: float = float("inf")
) -> Iterator[TrainEvent]:
    """Train to the end of the budget, or until should_stop() returns True between two steps.

    Yields an event every `every` steps or `every_seconds` seconds, whichever is sooner, and at the end. The time spent in
    should_stop() and in the caller is not training time. Several processes get the same events and stop together: the clock of
    rank 0 counts, and any of them may ask to stop. Raises FloatingPointError with the step when the loss is not a number.
    """
    device, world = trainer.device, trainer.world
    sums, counts = torch.zeros(BANDS, device=device), torch.zeros(BANDS, device=device)
    norms, since = torch.zeros((), device=device), 0
    first_bad = torch.full((), float("inf"), device=device)
    started, before = time.perf_counter(), trainer.seconds
    event_time, event_images = started, trainer.images

    def event(now: float) -> TrainEvent:
        world.add(sums, counts)
        world.lowest(first_bad)
        by_level, loss = (sums / counts).tolist(), float(sums.sum() / counts.sum())
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {int(first_bad)}; the last saved state is intact")
        rate = (trainer.images - event_images) / max(now - event_time, 1e-9)
        grad = float(norms) / since
        return TrainEvent(trainer.step, trainer.images, trainer.seconds, trainer.progress(), loss, by_level, trainer.lr, rate, grad)

    while trainer.progress() < 1:
        stop_check_started = time.perf_counter()
        stop = world.any(should_stop())
        waited = time.perf_counter() - stop_check_started
        started, event_time = started + waited, event_time + waited
        if stop and since:  # report the last steps, too
            yield event(time.perf_counter())
        if stop:
            break
        losses, band, norm = trainer.train_step()
        first_bad = torch.where(torch.isfinite(losses.sum()), first_bad, first_bad.clamp(max=trainer.step))
        sums.index_add_(0, band, losses)
        counts.index_add_(0, band, torch.ones_like(losses))
        norms += norm
        since += 1
        now = time.perf_counter()
        trainer.seconds, due = world.says(before + now - started, float(now - event_time >= every_seconds))
        if since == every or trainer.progress() >= 1 or due:
            yield event(now)
            sums.zero_(), counts.zero_(), norms.zero_()
            since, event_time, event_images = 0, time.perf_counter(), trainer.images
            before, started = trainer.seconds, time.perf_counter()  # the caller's time is not training time
