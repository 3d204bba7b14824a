#!/usr/bin/env python
"""Train the classifier that judges generated pictures, and measure it on the real test split.

    python train/train_classifier.py --data mnist --epochs 6 --out checkpoints/classifiers/mnist
    python train/train_classifier.py --data cifar10 --minutes 2 --batch 512 --lr 0.4 --out checkpoints/classifiers/cifar10  # on a GPU
    python train/train_classifier.py --data digits --epochs 200 --out checkpoints/classifiers/digits
    python train/train_classifier.py --noisy --data cifar10 --minutes 15 --out checkpoints/classifiers/cifar10-noisy

The directory holds classifier.json (with --noisy: noisy_classifier.json), weights.safetensors and README.md with the measured
accuracy; a noise-aware one's against the noise level. Nesterov SGD, one cycle
of the learning rate over the budget, label smoothing; CIFAR-10 and other photos are flipped, shifted and cut out from, MNIST
is only shifted; --noisy adds noise of the schedule's levels instead of cutting out, and smooths no labels. The test split is
looked at once, after the end, with the weights that were saved.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nnf

import project
from ddpm_app.classifiers.classifier import Classifier, load_classifier, save_classifier
from ddpm_app.classifiers.metrics import wilson
from ddpm_app.classifiers.noisy import NoisyClassifier, load_noisy, save_noisy, training_levels
from ddpm_app.diffusion.schedules import SCHEDULES, add_noise, make_schedule
from ddpm_app.files import write_atomically
from ddpm_app.images.datasets import KNOWN, ImageData, load_data, split
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import describe, keep_freed_memory, pick_device, pick_dtype
from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet

# Both leave the full resolution at once. Digits are small and grey: a narrow network (0.3 M weights). Photos: 2.7 M.
DIGITS = dict(widths=(16, 32, 64, 96), blocks=(0, 1, 2, 1))
TINY = dict(widths=(32, 64, 96), blocks=(1, 1, 1))  # pictures of under 16 pixels, whose full resolution costs nothing
PHOTOS = dict(widths=(64, 128, 256, 256), blocks=(0, 2, 1, 1))
# Noise-aware: they run backward, too, at every step of a sampler, so they are smaller (0.25 and 0.93 M weights).
NOISY_DIGITS = dict(widths=(16, 32, 64, 96), blocks=(0, 1, 1, 1))
NOISY_PHOTOS = dict(widths=(32, 64, 128, 192), blocks=(0, 1, 1, 1))
MEASURED_AT = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)  # sigma
LAYOUT = torch.channels_last  # BatchNorm and convolutions are up to twice as fast in it on CPUs, too (GroupNorm is not: device.py)


def augment(x: Tensor, shift: int, flip: bool, cutout: int, g: torch.Generator) -> Tensor:
    """x (B, C, H, W) -> shifted by up to `shift` pixels, mirrored at random, with a grey square of `cutout` pixels (0: none)."""
    b, _, h, w = x.shape
    rand = {"generator": g, "device": x.device}
    if flip:
        x = torch.where(torch.rand(b, 1, 1, 1, **rand) < 0.5, x.flip(3), x)
    padded = nnf.pad(x, [shift] * 4, mode="reflect" if flip else "replicate")
    rows = torch.randint(0, 2 * shift + 1, (b, 1), **rand) + torch.arange(h, device=x.device)
    columns = torch.randint(0, 2 * shift + 1, (b, 1), **rand) + torch.arange(w, device=x.device)
    x = padded[torch.arange(b, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        y0, x0 = (torch.randint(0, n, (b, 1), **rand) for n in (h, w))
        inside_y = (torch.arange(h, device=x.device) - y0).abs() < cutout / 2
        inside_x = (torch.arange(w, device=x.device) - x0).abs() < cutout / 2
        x = x.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)
    return x


def one_cycle(progress: float, rise: float = 0.2) -> float:
    """Share of the peak learning rate: linear up for the first `rise` of the budget, linear down to zero."""
    return min(progress / rise, (1 - progress) / (1 - rise)) if 0 < progress < 1 else 0.0


def fit(network: ResNet | NoisyResNet, data: ImageData, args: argparse.Namespace, device: torch.device) -> tuple[int, float]:
    """Train in place over the whole budget. Returns images seen and seconds."""
    dtype = pick_dtype(device, args.precision)
    digits = data.images.shape[1] == 1
    shift, flip, cutout = (2 if data.images.shape[-1] >= 16 else 1, False, 0) if digits else (4, True, args.cutout)
    levels = training_levels(make_schedule(args.schedule)).to(device) if args.noisy else None
    images, labels = data.images.to(device), data.labels.to(device)
    # decay is for weights that multiply; pulling norms and biases to zero only costs accuracy
    groups = [[p for p in network.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimiser = torch.optim.SGD(
        [{"params": groups[0], "weight_decay": args.weight_decay}, {"params": groups[1], "weight_decay": 0.0}],
        lr=args.lr,
        momentum=0.9,
        nesterov=True,
    )
    g = torch.Generator(device).manual_seed(args.seed)
    per_epoch = max(len(data) // args.batch, 1)
    started, step, order = time.perf_counter(), 0, None
    network.train()
    while True:
        seconds = time.perf_counter() - started
        progress = step / (args.epochs * per_epoch) if args.epochs else seconds / (60 * args.minutes)
        if progress >= 1:
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(data), generator=g, device=device)
        index = order[(step % per_epoch) * args.batch :][: args.batch]
        x = augment(to_model(images[index]), shift, flip, cutout, g).contiguous(memory_format=LAYOUT)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * max(one_cycle(progress), 1e-3)
        if args.noisy:
            sigma = levels[torch.randint(0, len(levels), (len(x),), generator=g, device=device)]
            x = add_noise(x, sigma, torch.randn(x.shape, generator=g, device=device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(x, sigma) if args.noisy else network(x)[0]
        loss = nnf.cross_entropy(logits.float(), labels[index], label_smoothing=args.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        if step % args.every == 0:
            rate = step * args.batch / (time.perf_counter() - started)
            print(f"{progress:6.1%}  epoch {step / per_epoch:.1f}  loss {loss.item():.4f}  {rate:.0f} images/s", flush=True)
    return step * min(args.batch, len(data)), time.perf_counter() - started


def accuracy(classifier: Classifier, data: ImageData) -> dict:
    """Share of images whose likeliest class is the right one, with its protocol."""
    hits = int((classifier.classify(data.images).argmax(1) == data.labels).sum())
    low, high = wilson(hits, len(data))
    return {"name": "accuracy", "value": hits / len(data), "n": len(data), "interval95": [round(low, 4), round(high, 4)]}


@torch.inference_mode()
def accuracy_by_level(classifier: NoisyClassifier, data: ImageData, batch: int = 500) -> list[dict]:
    """accuracy() and the mean of -ln p(right class) at each level of MEASURED_AT: one draw of noise an image, from seed 0."""
    rows = []
    for sigma in MEASURED_AT:
        g, right, nats = torch.Generator().manual_seed(0), 0, 0.0
        for at in range(0, len(data), batch):
            x, label = to_model(data.images[at : at + batch]), data.labels[at : at + batch]
            x = add_noise(x, torch.tensor(sigma), torch.randn(x.shape, generator=g)).to(classifier.device)
            log_p = classifier(x, sigma).cpu()
            right += int((log_p.argmax(1) == label).sum())
            nats -= float(log_p.gather(1, label[:, None]).double().sum())
        low, high = wilson(right, len(data))
        interval = [round(low, 4), round(high, 4)]
        rows.append({"sigma": sigma, "value": right / len(data), "n": len(data), "interval95": interval, "nll": nats / len(data)})
    return rows


def noisy_card(config: NoisyConfig, metric: dict, parameters: int, command: str) -> str:
    t = config.training
    rows = "\n".join(f"| {r['sigma']:g} | {r['value']:.2%} | {r['nll']:.4f} |" for r in metric["by_level"])
    return f"""# Noise-aware classifier of {config.data}

A residual network ({parameters / 1e6:.2f} M parameters; widths {", ".join(map(str, config.widths))}, blocks
{", ".join(map(str, config.blocks))}) that reads x = x0 + sigma eps and is told sigma, for {config.image_size}x{config.image_size}
pictures of {config.in_channels} channel(s). It guides samplers (`--classifier-scale`); pictures are judged by its sibling, which
never saw noise. Read it with `ddpm_app.noisy_classifier.load_noisy(path)`.

| sigma | accuracy | nats |
|---|---|---|
{rows}

Accuracy and mean -ln p(right class) on {metric["protocol"]}.

Trained on {metric["trained_on"]}, noised at the levels of the {t["schedule"]} schedule, t uniform: {config.images_seen} images{further(t)}
{t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}. Nesterov SGD, peak learning rate {t["lr"]:g} (one cycle), batch {t["batch"]},
weight decay {t["weight_decay"]:g}, label smoothing {t["smoothing"]:g}. Weights fp16 (float32 norm statistics), used in float32.

    {command}
"""


def further(t: dict) -> str:
    """What a card says of a run that went on from earlier ones."""
    parts = []
    while first := t.get("begun_from"):
        t = first["training"]
        parts.insert(0, f"{first['images_seen']} after one of peak {t['lr']:g}, {t['seconds']:.0f} s, seed {t['seed']}")
    return f" in {len(parts) + 1} cycles ({'; '.join(parts)}); the last:" if parts else " in"


def card(config: ClassifierConfig, metric: dict, parameters: int, command: str) -> str:
    t = config.training
    return f"""# Classifier of {config.data}

A residual network ({parameters / 1e6:.2f} M parameters; widths {", ".join(map(str, config.widths))}, blocks
{", ".join(map(str, config.blocks))}) for {config.image_size}x{config.image_size} pictures of {config.in_channels} channel(s).
It judges generated pictures (`train/judge.py`); it is no diffusion model. Read it with `ddpm_app.classifier.load_classifier(path)`.

| measured | value | protocol |
|---|---|---|
| accuracy | **{metric["value"]:.2%}** (95 %: {metric["interval95"][0]:.2%} to {metric["interval95"][1]:.2%}) | {metric["protocol"]} |

Trained on {metric["trained_on"]}: {config.images_seen} images{further(t)} {t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}.
Nesterov SGD, peak learning rate {t["lr"]:g} (one cycle), batch {t["batch"]}, weight decay {t["weight_decay"]:g},
label smoothing {t["smoothing"]:g}{f", cutout of {t['cutout']} pixels" if t.get("cutout") else ""}.
Weights fp16 (float32 norm statistics), judged in float32.

    {command}
"""


def measured(args: argparse.Namespace, device: torch.device, test: ImageData) -> dict:
    """The accuracy of what was saved, not of what was trained; a noise-aware one's at every level, the first (sigma 0) as its value."""
    if not args.noisy:
        return accuracy(load_classifier(args.out, device), test)
    rows = accuracy_by_level(load_noisy(args.out, device), test)
    return {"name": "accuracy", **{k: rows[0][k] for k in ("value", "n", "interval95")}, "by_level": rows}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist, cifar10, a folder with one sub-folder a class, or an .npz (default mnist)")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, default=0.0, help="budget in minutes of training")
    budget.add_argument("--epochs", type=int, default=0, help="budget in passes over the training images")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--batch", type=int, default=128, help="images a step (default 128)")
    parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate (default 0.1)")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="of convolutions and the last layer (default 0.0005)")
    parser.add_argument("--smoothing", type=float, help="label smoothing, 0 to 1 (default 0.1; 0 with --noisy)")
    parser.add_argument("--cutout", type=int, help="side of the grey square over photos, in pixels; 0: none (default 8; 0 with --noisy)")
    parser.add_argument("--init", help="begin from the weights of this classifier directory: a further cycle of the learning rate")
    parser.add_argument("--noisy", action="store_true", help="a noise-aware classifier for classifier guidance")
    parser.add_argument("--schedule", default="cosine", choices=tuple(SCHEDULES), help="whose levels --noisy trains at (default cosine)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="of matrix products (default auto)")
    parser.add_argument("--every", type=int, default=50, help="steps between printed lines (default 50)")
    args = parser.parse_args(argv)
    if args.smoothing is None:
        args.smoothing = 0.0 if args.noisy else 0.1  # a guide's probabilities are to be the true ones
    if args.cutout is None:
        args.cutout = 0 if args.noisy else 8
    if (
        not 0 <= args.cutout <= 64
        or args.minutes <= 0
        and args.epochs <= 0
        or args.batch < 2
        or not 0 < args.lr < 10
        or not 0 <= args.smoothing < 1
    ):
        parser.error("out of range: cutout 0..64, minutes or epochs above 0, batch from 2, lr (0, 10), smoothing [0, 1)")
    try:
        device = pick_device(args.device)
        whole = load_data(args.data)
        named = args.data in KNOWN
        training, test = (whole, load_data(args.data, "test")) if named else split(whole)
        digits = whole.images.shape[1] == 1
        args.cutout = 0 if digits else args.cutout
        kind = dict(data=whole.name, classes=whole.classes, image_size=whole.images.shape[-1], in_channels=whole.images.shape[1])
        if args.noisy:
            levels = make_schedule(args.schedule)
            shape = NoisyConfig(**kind, **(NOISY_DIGITS if digits else NOISY_PHOTOS), schedule={"name": args.schedule, "T": levels.T})
        else:
            shape = ClassifierConfig(**kind, **(PHOTOS if not digits else DIGITS if whole.images.shape[-1] >= 16 else TINY))
        before = (load_noisy if args.noisy else load_classifier)(args.init) if args.init else None
    except ValueError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    keep_freed_memory()
    torch.manual_seed(args.seed)
    network = (NoisyResNet if args.noisy else ResNet)(shape).to(device, memory_format=LAYOUT)
    if before is not None:
        try:
            network.load_state_dict(before.network.state_dict())
        except RuntimeError:
            print(f"train_classifier: {args.init} holds a network of another shape", file=sys.stderr)
            return 2
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{describe(device)}; {len(training)} images of {whole.name}; {parameters / 1e6:.2f} M parameters", flush=True)
    seen, seconds = fit(network, training, args, device)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "every")}
    settings |= {"seconds": round(seconds, 1), "device": describe(device)}
    earlier = {"images_seen": before.config.images_seen, "training": before.config.training} if before else {}
    settings |= {"begun_from": earlier} if earlier else {}
    config = dataclasses.replace(shape, images_seen=seen + earlier.get("images_seen", 0), training=settings)
    save = save_noisy if args.noisy else save_classifier
    save(args.out, config, network)
    metric = measured(args, device, test)
    where = f"all {len(test)} images of {'the test split' if named else 'a tenth held out (seed 0)'}"
    metric["protocol"] = where + (", one draw of noise each (seed 0)" if args.noisy else ", no test-time augmentation")
    metric["trained_on"] = f"all {len(training)} images of {'the training split' if named else 'the other nine tenths'}"
    config = dataclasses.replace(config, metrics=[metric])
    save(args.out, config, network)
    command = "python train/train_classifier.py " + " ".join(sys.argv[1:] if argv is None else argv)
    write_atomically(Path(args.out) / "README.md", (noisy_card if args.noisy else card)(config, metric, parameters, command))
    low, high = metric["interval95"]
    print(
        f"{seen} images, {seconds:.0f} s; test accuracy {metric['value']:.4f} (n = {metric['n']}, 95 % {low:.4f} to {high:.4f}); {args.out}"
    )
    return 0


if __name__ == "__main__":
    project.run(main)
