"""Training toys: one network, or all networks of a sweep in one computation over stacked weights.

The loss is Denoiser.loss, the weight average is ema.Ema. A network's batches depend only on its seed and the step. A network trained
in a stack therefore equals, up to rounding, the same network trained alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, Denoiser
from ddpm_app.diffusion.schedules import SCHEDULES, Schedule, make_schedule
from ddpm_app.flags import check, setting
from ddpm_app.networks.ema import Ema
from ddpm_app.networks.mlp import ToyConfig, ToyMLP, ToyStack
from ddpm_app.toy.shapes import ToyData

CHUNK = 32  # steps whose random numbers are drawn at once
WARMUP = 50  # steps


@dataclass(frozen=True)
class ToyTrainConfig:
    """The settings of one toy's training; each field states its meaning and bounds. Raises ValueError for a field out of bounds.

    params: other arguments of the schedule, such as {"beta_end": 0.02}"""

    schedule: str = setting("cosine", "noise schedule", choices=SCHEDULES)
    T: int = setting(1000, "steps of the schedule")  # make_schedule checks it
    params: dict = field(default_factory=dict)
    prediction_type: str = setting("v", "what the network predicts", choices=PREDICTION_TYPES, alias="row")
    width: int = setting(256, "width of the hidden layers", low=8, high=2048)
    depth: int = setting(2, "number of hidden layers", low=1, high=8)
    time_width: int = setting(128, "width of the layers that embed t", low=8, high=2048)
    steps: int = setting(2000, "training steps", low=1, high=1_000_000)
    batch: int = setting(128, "points in a batch", low=1, high=65_536)
    lr: float = setting(8e-3, "peak learning rate of AdamW", above=0, below=1)
    label_dropout: float = setting(0.1, "share of labels replaced by the null class; 1 trains without classes", low=0, high=1)
    ema: float = setting(0.1, "length of the weight average, as a share of the training so far", low=0, below=1)
    seed: int = setting(0, "seed of the initial weights and of the batches", low=0, high=2**31 - 1)

    def __post_init__(self):
        check(self)

    def make_schedule(self) -> Schedule:
        return make_schedule(self.schedule, self.T, **self.params)


# equal in all networks of a stack
SHARED = ("prediction_type", "width", "depth", "time_width", "steps", "batch", "lr", "label_dropout", "ema")


@dataclass(frozen=True)
class ToyEvent:
    """What train_toys yields.

    step: training steps done
    steps: training steps in all
    loss: (M,) of each network, the mean since the last event
    seconds: of training so far"""

    step: int
    steps: int
    loss: list[float]
    seconds: float


class ToyTrainer:
    """The state of a training run over M >= 1 configurations. Raises ValueError if they cannot be stacked."""

    def __init__(self, configs: Sequence[ToyTrainConfig], data: ToyData):
        self.configs, self.config, self.data = list(configs), configs[0], data
        for name in SHARED:
            if len({getattr(c, name) for c in configs}) > 1:
                raise ValueError(f"the networks of a sweep must share {name} to train in one computation")
        c = self.config
        self.schedules = [k.make_schedule() for k in configs]
        num_classes = len(data.classes) if c.label_dropout < 1 else 0
        self.network_config = ToyConfig(data.dim, c.width, c.depth, time_width=c.time_width, num_classes=num_classes)
        self.T = torch.tensor([s.T for s in self.schedules])
        self.offset = self.T.cumsum(0) - self.T
        networks = [_initial(self.network_config, k.seed) for k in configs]
        self.network = networks[0] if len(configs) == 1 else ToyStack(networks, self.offset)
        levels = Schedule("stack", torch.cat([s.sigma for s in self.schedules]))  # all levels in one list, each network's from its offset
        self.denoiser = Denoiser(self.network, levels, c.prediction_type)
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=c.lr, weight_decay=0.0, fused=True)
        self.ema = Ema(self.parameters, c.ema)
        self.step, self.seconds = 0, 0.0
        self.x, self.label = data.to_model(data.x), data.label
        self.seeds = sorted({k.seed for k in configs})
        self.seed_of = torch.tensor([self.seeds.index(k.seed) for k in configs])
        self._random: dict[str, Tensor] = {}

    def _draw(self) -> None:
        """Draw the random numbers of the next CHUNK steps for every seed: (seeds, CHUNK, batch, ...)."""
        shape, parts = (CHUNK, self.config.batch), []
        for seed in self.seeds:
            g = torch.Generator().manual_seed((seed * 0x9E3779B1 + self.step // CHUNK * 2 + 1) % 2**63)
            index = torch.randint(0, len(self.x), shape, generator=g)
            u, drop = torch.rand(shape, generator=g, dtype=torch.float64), torch.rand(shape, generator=g)
            parts.append((index, u, drop, torch.randn(*shape, self.data.dim, generator=g)))
        self._random = dict(zip(("index", "u", "drop", "eps"), (torch.stack(p) for p in zip(*parts))))

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x0 (M B, d), t (M B,) on the joined list of levels, eps, label) of the current step."""
        if self.step % CHUNK == 0 or not self._random:
            self._draw()
        k, of = self.step % CHUNK, self.seed_of
        index, u, drop = self._random["index"][of, k], self._random["u"][of, k], self._random["drop"][of, k]
        t = (u * self.T[:, None]).long() + self.offset[:, None]
        label = torch.where(drop < self.config.label_dropout, len(self.data.classes), self.label[index])
        return self.x[index].flatten(0, 1), t.flatten(), self._random["eps"][of, k].flatten(0, 1), label.flatten()

    def train_step(self) -> Tensor:
        """Take one step. Returns the loss of each network, (M,)."""
        c = self.config
        warmup, progress = min((self.step + 1) / WARMUP, 1.0), self.step / c.steps
        for group in self.optimiser.param_groups:
            group["lr"] = c.lr * warmup * (1 - progress)
        x0, t, eps, label = self.batch()
        losses = self.denoiser.loss(x0, t, eps, label).reshape(len(self.configs), -1).mean(1)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # no network's loss depends on another's weights
        self.optimiser.step()
        self.step += 1
        self.ema.update(self.parameters, self.ema.decay(self.step))
        return losses.detach()

    def networks(self) -> list[ToyMLP]:
        """The averaged networks, one for each configuration, frozen."""
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
        return [Denoiser(n, s, self.config.prediction_type) for n, s in zip(self.networks(), self.schedules)]


def _initial(config: ToyConfig, seed: int) -> ToyMLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyMLP(config)


def train_toys(trainer: ToyTrainer, every: int = 100, should_stop: Callable[[], bool] = lambda: False) -> Iterator[ToyEvent]:
    """Train to the end, yielding an event every `every` steps. Raises FloatingPointError if a loss is not finite."""
    total, since, started, before = torch.zeros(len(trainer.configs)), 0, time.perf_counter(), trainer.seconds
    while trainer.step < trainer.config.steps and not should_stop():
        total += trainer.train_step()
        since += 1
        if since == every or trainer.step == trainer.config.steps:
            trainer.seconds = before + time.perf_counter() - started
            loss = total / since
            if not bool(loss.isfinite().all()):
                raise FloatingPointError(f"the loss is not finite at step {trainer.step}; try a smaller learning rate")
            yield ToyEvent(trainer.step, trainer.config.steps, loss.tolist(), trainer.seconds)
            total.zero_()
            since, started, before = 0, time.perf_counter(), trainer.seconds


def train_one(config: ToyTrainConfig, data: ToyData) -> Denoiser:
    """Train one network to the end."""
    trainer = ToyTrainer([config], data)
    for _ in train_toys(trainer, every=config.steps):
        pass
    return trainer.denoisers()[0]
