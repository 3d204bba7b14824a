"""Training toys: one network, or every seed and setting of a sweep as one computation over stacked weights.

The loss is Denoiser.loss, the average is ema.Ema. What a network is given depends on its own seed and step alone, so a
network trained in a stack equals, up to rounding, the same network trained by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import ROWS, Denoiser
from ddpm_app.diffusion.schedules import Schedule, make_schedule
from ddpm_app.networks.ema import Ema
from ddpm_app.networks.mlp import ToyConfig, ToyMLP, ToyStack
from ddpm_app.toy.shapes import ToyData

CHUNK = 32  # steps whose random numbers are drawn at once
WARMUP = 50  # steps


@dataclass(frozen=True)
class ToyTrainConfig:
    """schedule: name; T and params its arguments. row: prediction type. width, depth,
    time_width: of the network. steps of batch points each.
    lr: peak of AdamW. label_dropout: share of labels replaced by the null class, 1 trains unconditionally. ema: as in Ema."""

    schedule: str = "cosine"
    T: int = 1000
    params: dict = field(default_factory=dict)
    row: str = "v"
    width: int = 256
    depth: int = 2
    time_width: int = 128
    steps: int = 2000
    batch: int = 128
    lr: float = 8e-3
    label_dropout: float = 0.1
    ema: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.steps <= 1_000_000 or not 1 <= self.batch <= 65_536 or not 0 < self.lr < 1:
            raise ValueError("out of range: steps 1..1000000, batch 1..65536, lr (0, 1)")
        if not 0 <= self.label_dropout <= 1 or not 0 <= self.ema < 1 or self.row not in ROWS:
            raise ValueError(f"out of range: label_dropout [0, 1], ema [0, 1), row one of {', '.join(ROWS)}")

    def make_schedule(self) -> Schedule:
        return make_schedule(self.schedule, self.T, **self.params)


SHARED = ("row", "width", "depth", "time_width", "steps", "batch", "lr", "label_dropout", "ema")  # what the networks of a stack agree on


@dataclass(frozen=True)
class ToyEvent:
    """Means since the last event: loss (M,) of each network. step of steps done, seconds so far."""

    step: int
    steps: int
    loss: list[float]
    seconds: float


class ToyTrainer:
    """The state of a run over M >= 1 configurations. Raises ValueError where they cannot be stacked."""

    def __init__(self, configs: Sequence[ToyTrainConfig], data: ToyData):
        self.configs, self.config, self.data = list(configs), configs[0], data
        for name in SHARED:
            if len({getattr(c, name) for c in configs}) > 1:
                raise ValueError(f"a sweep trains as one computation only when all its settings share {name}")
        c = self.config
        self.schedules = [k.make_schedule() for k in configs]
        num_classes = len(data.classes) if c.label_dropout < 1 else 0
        self.network_config = ToyConfig(data.dim, c.width, c.depth, time_width=c.time_width, num_classes=num_classes)
        self.T = torch.tensor([s.T for s in self.schedules])
        self.offset = self.T.cumsum(0) - self.T
        networks = [_initial(self.network_config, k.seed) for k in configs]
        self.network = networks[0] if len(configs) == 1 else ToyStack(networks, self.offset)
        levels = Schedule("stack", torch.cat([s.sigma for s in self.schedules]))  # one list; each network has its own stretch of it
        self.denoiser = Denoiser(self.network, levels, c.row)
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=c.lr, weight_decay=0.0, fused=True)
        self.ema = Ema(self.parameters, c.ema)
        self.step, self.seconds = 0, 0.0
        self.x, self.label = data.to_model(data.x), data.label
        self.seeds = sorted({k.seed for k in configs})
        self.seed_of = torch.tensor([self.seeds.index(k.seed) for k in configs])
        self._drawn: dict[str, Tensor] = {}

    def _draw(self) -> None:
        """The random numbers of the next CHUNK steps for every seed: (seeds, CHUNK, batch, ...)."""
        shape, parts = (CHUNK, self.config.batch), []
        for seed in self.seeds:
            g = torch.Generator().manual_seed((seed * 0x9E3779B1 + self.step // CHUNK * 2 + 1) % 2**63)
            index = torch.randint(0, len(self.x), shape, generator=g)
            u, drop = torch.rand(shape, generator=g, dtype=torch.float64), torch.rand(shape, generator=g)
            parts.append((index, u, drop, torch.randn(*shape, self.data.dim, generator=g)))
        self._drawn = dict(zip(("index", "u", "drop", "eps"), (torch.stack(p) for p in zip(*parts))))

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x0 (M B, d), t (M B,) on the joined list of levels, eps, label) of the current step."""
        if self.step % CHUNK == 0 or not self._drawn:
            self._draw()
        k, of = self.step % CHUNK, self.seed_of
        index, u, drop = self._drawn["index"][of, k], self._drawn["u"][of, k], self._drawn["drop"][of, k]
        t = (u * self.T[:, None]).long() + self.offset[:, None]
        label = torch.where(drop < self.config.label_dropout, len(self.data.classes), self.label[index])
        return self.x[index].flatten(0, 1), t.flatten(), self._drawn["eps"][of, k].flatten(0, 1), label.flatten()

    def train_step(self) -> Tensor:
        """The loss of each network, (M,)."""
        c = self.config
        up, progress = min((self.step + 1) / WARMUP, 1.0), self.step / c.steps
        for group in self.optimiser.param_groups:
            group["lr"] = c.lr * up * (1 - progress)
        x0, t, eps, label = self.batch()
        losses = self.denoiser.loss(x0, t, eps, label).reshape(len(self.configs), -1).mean(1)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # no network's loss depends on another's weights
        self.optimiser.step()
        self.step += 1
        self.ema.update(self.parameters, self.step)
        return losses.detach()

    def networks(self) -> list[ToyMLP]:
        """The averaged networks, one a configuration, frozen."""
        names = [n for n, _ in self.network.named_parameters()]
        values = dict(zip(names, (v.clone() for v in self.ema.values)))
        if isinstance(self.network, ToyStack):
            networks = self.network.unstack(values)
        else:
            networks = [ToyMLP(self.network_config)]
            networks[0].load_state_dict(values)
        return [n.eval().requires_grad_(False) for n in networks]

    def denoisers(self) -> list[Denoiser]:
        """Each with its own schedule, ready to sample."""
        return [Denoiser(n, s, self.config.row) for n, s in zip(self.networks(), self.schedules)]


def _initial(config: ToyConfig, seed: int) -> ToyMLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyMLP(config)


def train_toys(trainer: ToyTrainer, every: int = 100, should_stop: Callable[[], bool] = lambda: False) -> Iterator[ToyEvent]:
    """Train to the end, yielding an event every `every` steps. Raises FloatingPointError when a loss is no longer a number."""
    total, since, started, before = torch.zeros(len(trainer.configs)), 0, time.perf_counter(), trainer.seconds
    while trainer.step < trainer.config.steps and not should_stop():
        total += trainer.train_step()
        since += 1
        if since == every or trainer.step == trainer.config.steps:
            trainer.seconds = before + time.perf_counter() - started
            loss = total / since
            if not bool(loss.isfinite().all()):
                raise FloatingPointError(f"the loss is not a number at step {trainer.step}; try a smaller learning rate")
            yield ToyEvent(trainer.step, trainer.config.steps, loss.tolist(), trainer.seconds)
            total.zero_()
            since, started, before = 0, time.perf_counter(), trainer.seconds


def train_one(config: ToyTrainConfig, data: ToyData) -> Denoiser:
    """Train one network to the end."""
    trainer = ToyTrainer([config], data)
    for _ in train_toys(trainer, every=config.steps):
        pass
    return trainer.denoisers()[0]


# -- what outlives the process --------------------------------------------------------------------------------------------
