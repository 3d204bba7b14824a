"""The training speed of this machine: the training step here and that of a plain PyTorch loop in float32, on the same network.

The two alternate. The share of the machine's matrix rate counts the multiplications of the network only; a backward pass counts as
two forward passes.
"""

from __future__ import annotations

import copy
from statistics import median

import torch

from ddpm_app.bench.sampling import machine, seconds_per_call
from ddpm_app.flags import check_choice
from ddpm_app.networks.unet import UNet, forward_flops
from ddpm_app.networks.unet_config import PRESETS
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.probe import stand_in
from ddpm_app.training.trainer import Trainer

BATCHES = {"cpu": {"tiny": 64, "small": 32, "ddpm": 8}, "cuda": {"tiny": 512, "small": 512, "ddpm": 128}}
SIDES = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192)}  # of the matrices whose product measures the machine
LEAST_SECONDS = {"cpu": 1.0, "cuda": 2.0}  # of one measurement of a training step
PLAIN_EMA = 0.9999


class Plain:
    """A training loop as in tutorials: float32, PyTorch's default memory layout and implementation of AdamW, the data in the host's
    memory, a weight average updated one parameter at a time, the loss read at every step."""

    def __init__(self, network: UNet, trainer: Trainer):
        self.device, self.batch, self.denoiser = trainer.device, trainer.config.batch, trainer.denoiser
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).train()
        self.loss = type(trainer.denoiser)(self.network, trainer.denoiser.schedule, trainer.denoiser.prediction_type).loss
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=trainer.config.lr)
        self.images, self.labels, self.T = trainer.data.images.cpu(), trainer.data.labels.cpu(), trainer.config.T

    def step(self) -> float:
        index = torch.randint(0, len(self.images), (self.batch,))
        x0 = (self.images[index].float() / 127.5 - 1).to(self.device)
        label = self.labels[index].to(self.device)
        t = torch.randint(0, self.T, (self.batch,), device=self.device)
        loss = self.loss(x0, t, torch.randn_like(x0), label).mean()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            for average, p in zip(self.average.parameters(), self.network.parameters()):
                average.mul_(PLAIN_EMA).add_(p, alpha=1 - PLAIN_EMA)
        return loss.item()


def bench_train(
    device: str = "auto",
    precision: str = "auto",
    rounds: int = 5,
    presets: str = "",
    batch: int = 0,
    compile: str = "auto",
    quick: bool = False,
) -> dict:
    """Measure the training speed.

    rounds: measurements of each figure. presets: names separated by commas, or "" for those that fit the device. batch: images per
    step, 0 for the network's default. quick: the smallest network, one step per measurement. Returns a dict:
    device, torch, precision   what was measured
    matmul                     GFLOP/s of the best matrix product
    training                   [{"preset", "batch", "gflop_per_image" of a training step, "images_per_s", "plain_images_per_s",
                               "ratio", "share" of the matrix rate, "note" where torch.compile failed}]
    Raises ValueError for an unknown preset or less than one round."""
    where, dtype, facts = machine(device, precision, rounds)
    kind = "cuda" if where.type == "cuda" else "cpu"
    names = [n.strip() for n in presets.split(",") if n.strip()] or (
        ["tiny"] if quick else ["tiny", "small", "ddpm"][: 3 if kind == "cuda" else 2]
    )
    for name in names:
        check_choice("preset", name, PRESETS)
    sides, least = ((256,), 0.0) if quick else (SIDES[kind], LEAST_SECONDS[kind])
    matrices = [torch.randn(side, side, device=where).to(dtype) for side in sides]
    rows, matmul = [], {side: [] for side in sides}
    for name in names:
        size = batch or (2 if quick else BATCHES[kind][name])
        config = TrainConfig(
            data="cifar10", preset=name, images=10**9, batch=size, device=device, precision=precision, compile=compile, averages="none",
            weight="uniform",  # the plain loop's
        )  # fmt: skip
        trainer = Trainer(config, stand_in(config))
        plain, note = Plain(trainer.network, trainer), trainer.compile()
        gflop = 3 * forward_flops(trainer.network, size) / size / 1e9
        times, plain_times = [], []
        for k in range(rounds + 1):  # the first measurement picks kernels and allocates memory
            seconds, plain_seconds = seconds_per_call(trainer.train_step, where, least), seconds_per_call(plain.step, where, least)
            for a in matrices:
                matmul[len(a)].append(seconds_per_call(lambda a=a: a @ a, where, least / 10))
            if k:
                times.append(seconds)
                plain_times.append(plain_seconds)
        row = {"preset": name, "batch": size, "gflop_per_image": gflop, "images_per_s": size / median(times)}
        row |= {"plain_images_per_s": size / median(plain_times), "ratio": median(p / t for t, p in zip(times, plain_times))}
        rows.append(row | {"note": note})
    best = max(2 * side**3 / median(times) / 1e9 for side, times in matmul.items())
    for row in rows:
        row["share"] = row["images_per_s"] * row["gflop_per_image"] / best
    return {**facts, "matmul": best, "training": rows}


def table(facts: dict) -> str:
    """What bench_train returned, as text."""
    lines = [f"{facts['device']}; torch {facts['torch']}; {facts['precision']} matrix products: {facts['matmul']:.0f} GFLOP/s at best", ""]
    lines.append(f"{'network':8} {'batch':>5} {'images/s':>9} {'of the matrix rate':>19} {'plain float32 loop':>19} {'times':>6}")
    for r in facts["training"]:
        lines.append(
            f"{r['preset']:8} {r['batch']:5} {r['images_per_s']:9.1f} {r['share']:19.0%} {r['plain_images_per_s']:19.1f} {r['ratio']:6.2f}"
        )
    return "\n".join([*lines, *(f"{r['preset']}: {r['note']}" for r in facts["training"] if r["note"])])
