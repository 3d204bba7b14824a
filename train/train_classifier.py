#!/usr/bin/env python
"""Train the classifier that judges generated pictures, and measure it on the real test split.

    python train/train_classifier.py --data mnist --epochs 6 --out checkpoints/classifiers/mnist
    python train/train_classifier.py --data cifar10 --minutes 2 --batch 512 --lr 0.4 --out checkpoints/classifiers/cifar10  # on a GPU

The directory holds classifier.json, weights.safetensors and README.md with the measured accuracy. Nesterov SGD, one cycle
of the learning rate over the budget, label smoothing; CIFAR-10 and other photos are flipped, shifted and cut out from, MNIST
is only shifted. The test split is looked at once, after the end, with the weights that were saved.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as nnf  # noqa: E402

from ddpm_app.checkpoints import write_atomically  # noqa: E402
from ddpm_app.classifier import Classifier, ClassifierConfig, ResNet, load_classifier, save_classifier, wilson  # noqa: E402
from ddpm_app.data import KNOWN, ImageData, load_data, split, to_model  # noqa: E402
from ddpm_app.device import describe, keep_freed_memory, pick_device, pick_dtype  # noqa: E402

# Both leave the full resolution at once. Digits are small and grey: a narrow network (0.3 M weights). Photos: 2.7 M.
DIGITS = dict(widths=(16, 32, 64, 96), blocks=(0, 1, 2, 1))
PHOTOS = dict(widths=(64, 128, 256, 256), blocks=(0, 2, 1, 1))
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


def fit(network: ResNet, data: ImageData, args: argparse.Namespace, device: torch.device) -> tuple[int, float]:
    """Train in place over the whole budget. Returns images seen and seconds."""
    dtype = pick_dtype(device, args.precision)
    digits = data.images.shape[1] == 1
    shift, flip, cutout = (2, False, 0) if digits else (4, True, 8)
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
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, _ = network(x)
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


def card(config: ClassifierConfig, metric: dict, parameters: int, command: str) -> str:
    t = config.training
    return f"""# Classifier of {config.data}

A residual network ({parameters / 1e6:.2f} M parameters; widths {", ".join(map(str, config.widths))}, blocks
{", ".join(map(str, config.blocks))}) for {config.image_size}x{config.image_size} pictures of {config.in_channels} channel(s).
It judges generated pictures (`train/judge.py`); it is no diffusion model. Read it with `ddpm_app.classifier.load_classifier(path)`.

| measured | value | protocol |
|---|---|---|
| accuracy | **{metric["value"]:.2%}** (95 %: {metric["interval95"][0]:.2%} to {metric["interval95"][1]:.2%}) | {metric["protocol"]} |

Trained on {metric["trained_on"]}: {config.images_seen} images in {t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}.
Nesterov SGD, peak learning rate {t["lr"]:g} (one cycle), batch {t["batch"]}, weight decay {t["weight_decay"]:g},
label smoothing {t["smoothing"]:g}.
Weights fp16 (float32 norm statistics), judged in float32.

    {command}
"""


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
    parser.add_argument("--smoothing", type=float, default=0.1, help="label smoothing, 0 to 1 (default 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="of matrix products (default auto)")
    parser.add_argument("--every", type=int, default=50, help="steps between printed lines (default 50)")
    args = parser.parse_args(argv)
    if args.minutes <= 0 and args.epochs <= 0 or args.batch < 2 or not 0 < args.lr < 10 or not 0 <= args.smoothing < 1:
        parser.error("out of range: minutes or epochs above 0, batch from 2, lr (0, 10), smoothing [0, 1)")
    try:
        device = pick_device(args.device)
        whole = load_data(args.data)
        named = args.data in KNOWN
        training, test = (whole, load_data(args.data, "test")) if named else split(whole)
        shape = ClassifierConfig(
            data=whole.name,
            classes=whole.classes,
            image_size=whole.images.shape[-1],
            in_channels=whole.images.shape[1],
            **(DIGITS if whole.images.shape[1] == 1 else PHOTOS),
        )
    except ValueError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    keep_freed_memory()
    torch.manual_seed(args.seed)
    network = ResNet(shape).to(device, memory_format=LAYOUT)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{describe(device)}; {len(training)} images of {whole.name}; {parameters / 1e6:.2f} M parameters", flush=True)
    seen, seconds = fit(network, training, args, device)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "every")}
    settings |= {"seconds": round(seconds, 1), "device": describe(device)}
    config = dataclasses.replace(shape, images_seen=seen, training=settings)
    save_classifier(args.out, config, network)
    metric = accuracy(load_classifier(args.out, device), test)  # of what was saved, not of what was trained
    metric["protocol"] = (
        f"all {len(test)} images of {'the test split' if named else 'a tenth held out (seed 0)'}, no test-time augmentation"
    )
    metric["trained_on"] = f"all {len(training)} images of {'the training split' if named else 'the other nine tenths'}"
    config = dataclasses.replace(config, metrics=[metric])
    save_classifier(args.out, config, network)
    command = "python train/train_classifier.py " + " ".join(sys.argv[1:] if argv is None else argv)
    write_atomically(Path(args.out) / "README.md", card(config, metric, parameters, command))
    low, high = metric["interval95"]
    print(
        f"{seen} images, {seconds:.0f} s; test accuracy {metric['value']:.4f} (n = {metric['n']}, 95 % {low:.4f} to {high:.4f}); {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
