"""How fast this machine trains, measured in one run: our step, and a plain PyTorch loop in float32 over the same network, in turns.

The share of the machine's matrix rate counts the multiplications of the network alone, forwards once and backwards twice.
"""

from __future__ import annotations

import argparse
import copy
import json
from statistics import median

import torch

from ddpm_app.bench import sampling
from ddpm_app.networks.device import describe, pick_device, pick_dtype
from ddpm_app.networks.unet import PRESETS, UNet, forward_flops
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.probe import stand_in
from ddpm_app.training.trainer import Trainer

BATCHES = {"cpu": {"tiny": 64, "small": 32, "ddpm": 8}, "cuda": {"tiny": 512, "small": 512, "ddpm": 128}}
SIDES = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192)}  # of the matrices whose product is the machine's rate
TURN = {"cpu": 1.0, "cuda": 2.0}  # seconds a side works before the other has its turn
PLAIN_EMA = 0.9999


class Plain:
    """Training as a tutorial writes it: float32, PyTorch's default optimiser and memory layout, data on the host, the average
    updated parameter by parameter, the loss read every step."""

    def __init__(self, network: UNet, trainer: Trainer):
        self.device, self.batch, self.denoiser = trainer.device, trainer.config.batch, trainer.denoiser
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).train()
        self.loss = type(trainer.denoiser)(self.network, trainer.denoiser.schedule, trainer.denoiser.row).loss
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
    """Measure. presets: names with commas, "" those this machine is for. batch: images a step, 0 the usual. quick: one step each.

    Returns {"device", "torch", "precision", "matmul" GFLOP/s at best, "training": [{"preset", "batch", "gflop_per_image" of a
    training step, "images_per_s", "plain_images_per_s", "ratio", "share" of the matrix rate, "note" where torch.compile failed}]}."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    where = pick_device(device)
    dtype, kind = pick_dtype(where, precision), "cuda" if where.type == "cuda" else "cpu"
    names = [n.strip() for n in presets.split(",") if n.strip()] or (
        ["tiny"] if quick else ["tiny", "small", "ddpm"][: 3 if kind == "cuda" else 2]
    )
    if unknown := [n for n in names if n not in PRESETS]:
        raise ValueError(f"--presets: {unknown[0][:40]!r} is unknown; {', '.join(PRESETS)} are accepted")
    sides, least = ((256,), 0.0) if quick else (SIDES[kind], TURN[kind])
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
        ours, theirs = [], []
        for k in range(rounds + 1):  # the first turn of each picks kernels and allocates
            one, two = sampling._seconds(trainer.train_step, where, least), sampling._seconds(plain.step, where, least)
            for a in matrices:
                matmul[len(a)].append(sampling._seconds(lambda a=a: a @ a, where, least / 10))
            if k:
                ours.append(one)
                theirs.append(two)
        row = {"preset": name, "batch": size, "gflop_per_image": gflop, "images_per_s": size / median(ours)}
        rows.append(row | {"plain_images_per_s": size / median(theirs), "ratio": median(t / o for o, t in zip(ours, theirs)), "note": note})
    best = max(2 * side**3 / median(times) / 1e9 for side, times in matmul.items())
    for row in rows:
        row["share"] = row["images_per_s"] * row["gflop_per_image"] / best
    facts = {"device": describe(where), "torch": torch.__version__, "precision": "bf16" if dtype == torch.bfloat16 else "fp32"}
    return {**facts, "matmul": best, "training": rows}


def table(facts: dict) -> str:
    """The result for people."""
    lines = [f"{facts['device']}; torch {facts['torch']}; {facts['precision']} matrix products: {facts['matmul']:.0f} GFLOP/s at best", ""]
    lines.append(f"{'network':8} {'batch':>5} {'images/s':>9} {'of the matrix rate':>19} {'plain float32 loop':>19} {'times':>6}")
    for r in facts["training"]:
        lines.append(
            f"{r['preset']:8} {r['batch']:5} {r['images_per_s']:9.1f} {r['share']:19.0%} {r['plain_images_per_s']:19.1f} {r['ratio']:6.2f}"
        )
    return "\n".join([*lines, *(f"{r['preset']}: {r['note']}" for r in facts["training"] if r["note"])])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sampling.add_arguments(parser)
    parser.add_argument("--train", action="store_true", help="training instead of sampling, beside a plain PyTorch loop in float32")
    parser.add_argument(
        "--presets", default="", help="with --train: networks, separated by commas (default tiny,small; on a GPU ddpm, too)"
    )
    parser.add_argument("--batch", type=int, default=0, help="with --train: images a step (default by network and device)")
    parser.add_argument("--compile", default="auto", choices=("auto", "yes", "no"), help="with --train: torch.compile (auto: on CUDA)")


def run(args: argparse.Namespace) -> int:
    if not args.train:
        return sampling.run(args)
    facts = bench_train(args.device, args.precision, args.rounds, args.presets, args.batch, args.compile, args.quick)
    print(json.dumps(facts, indent=1) if args.json else table(facts))
    return 0
