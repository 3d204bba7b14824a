"""Training of the plain and the noise-aware classifier: the settings, the loop, and the measurement on the test split."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_app.classifiers.card import classifier_card
from ddpm_app.classifiers.classifier import Classifier, load_classifier, save_classifier
from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.diffusion.schedules import SCHEDULES, SIGMA_CAP, Schedule, add_noise, make_schedule
from ddpm_app.files import write_atomically
from ddpm_app.flags import check, setting
from ddpm_app.images.datasets import KNOWN, ImageData, load_data, split
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import describe, keep_freed_memory, pick_device, pick_dtype
from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet

# Every network halves the resolution after its first convolution. Digits are small and grey: a narrow network (0.3 M weights).
# Photos: 2.7 M weights.
DIGITS = dict(widths=(16, 32, 64, 96), blocks=(0, 1, 2, 1))
TINY = dict(widths=(32, 64, 96), blocks=(1, 1, 1))  # images below 16 pixels: the full resolution costs nothing
PHOTOS = dict(widths=(64, 128, 256, 256), blocks=(0, 2, 1, 1))
# Guidance differentiates the noise-aware networks at every step of a sampler, so they are smaller (0.25 and 0.93 M weights).
NOISY_DIGITS = dict(widths=(16, 32, 64, 96), blocks=(0, 1, 1, 1))
NOISY_PHOTOS = dict(widths=(32, 64, 128, 192), blocks=(0, 1, 1, 1))
MEASURED_AT = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)  # sigma
LAYOUT = torch.channels_last  # BatchNorm and convolutions are up to twice as fast in it, also on CPUs (GroupNorm is not: device.py)


@dataclass(frozen=True)
class ClassifierTraining:
    """The settings of a training run. The help text of a field gives its meaning and unit; flags are built from it."""

    data: str = setting("mnist", "mnist, cifar10, a folder with one sub-folder per class, or an .npz")
    minutes: float = setting(0.0, "budget of training; give this or --epochs", unit="minutes", low=0)
    epochs: int = setting(0, "budget; give this or --minutes", unit="passes over the training images", low=0)
    out: str = setting("", "directory to write")
    batch: int = setting(128, "images per step", low=2)
    lr: float = setting(0.1, "peak learning rate", above=0, below=10)
    weight_decay: float = setting(5e-4, "weight decay of the convolutions and the last layer", low=0)
    smoothing: float | None = setting(None, "label smoothing; 0.1 (0 with --noisy) by default", low=0, below=1)
    cutout: int | None = setting(None, "side of the grey square over photos; 8 (0 with --noisy) by default", unit="pixels", low=0, high=64)
    init: str | None = setting(None, "directory of a classifier whose weights the training starts from")
    noisy: bool = setting(False, "train a noise-aware classifier for classifier guidance")
    schedule: str = setting("cosine", "noise schedule whose levels --noisy uses", choices=SCHEDULES)
    seed: int = setting(0, "seed of everything random")
    device: str = setting("auto", "auto, cpu, cuda, mps")
    precision: str = setting("auto", "precision of matrix products", choices=("auto", "bf16", "fp32"))
    every: int = setting(50, "steps between printed lines", low=1)

    def __post_init__(self):
        if self.smoothing is None:  # guidance needs calibrated probabilities, so a noise-aware classifier smooths no labels
            object.__setattr__(self, "smoothing", 0.0 if self.noisy else 0.1)
        if self.cutout is None:
            object.__setattr__(self, "cutout", 0 if self.noisy else 8)
        check(self)
        if not self.out:
            raise ValueError("give --out, the directory to write")
        if not (self.minutes > 0) ^ (self.epochs > 0):
            raise ValueError("give a budget: either --minutes or --epochs, above 0")


def training_levels(schedule: Schedule) -> Tensor:
    """(T',) float64: the levels of the schedule that a sampler may visit, up to SIGMA_CAP."""
    return schedule.sigma[schedule.sigma <= SIGMA_CAP]


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
    """Share of the peak learning rate: it rises linearly over the first `rise` of the budget, then falls linearly to zero."""
    return min(progress / rise, (1 - progress) / (1 - rise)) if 0 < progress < 1 else 0.0


def fit(network: ResNet | NoisyResNet, data: ImageData, settings: ClassifierTraining, device: torch.device) -> tuple[int, float]:
    """Train the network in place over the whole budget. Returns the number of images seen and the seconds it took."""
    dtype = pick_dtype(device, settings.precision)
    digits = data.images.shape[1] == 1
    shift, flip, cutout = (2 if data.images.shape[-1] >= 16 else 1, False, 0) if digits else (4, True, settings.cutout)
    levels = training_levels(make_schedule(settings.schedule)).to(device) if settings.noisy else None
    images, labels = data.images.to(device), data.labels.to(device)
    # Decay of norms and biases would only cost accuracy.
    groups = [[p for p in network.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimiser = torch.optim.SGD(
        [{"params": groups[0], "weight_decay": settings.weight_decay}, {"params": groups[1], "weight_decay": 0.0}],
        lr=settings.lr,
        momentum=0.9,
        nesterov=True,
    )
    g = torch.Generator(device).manual_seed(settings.seed)
    per_epoch = max(len(data) // settings.batch, 1)
    started, step, order = time.perf_counter(), 0, None
    network.train()
    while True:
        seconds = time.perf_counter() - started
        progress = step / (settings.epochs * per_epoch) if settings.epochs else seconds / (60 * settings.minutes)
        if progress >= 1:
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(data), generator=g, device=device)
        index = order[(step % per_epoch) * settings.batch :][: settings.batch]
        x = augment(to_model(images[index]), shift, flip, cutout, g).contiguous(memory_format=LAYOUT)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * max(one_cycle(progress), 1e-3)
        if settings.noisy:
            sigma = levels[torch.randint(0, len(levels), (len(x),), generator=g, device=device)]
            x = add_noise(x, sigma, torch.randn(x.shape, generator=g, device=device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(x, sigma) if settings.noisy else network(x)[0]
        loss = nnf.cross_entropy(logits.float(), labels[index], label_smoothing=settings.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        if step % settings.every == 0:
            rate = step * settings.batch / (time.perf_counter() - started)
            print(f"{progress:6.1%}  epoch {step / per_epoch:.1f}  loss {loss.item():.4f}  {rate:.0f} images/s", flush=True)
    return step * min(settings.batch, len(data)), time.perf_counter() - started


def share(hits: int, n: int) -> dict:
    """A share as it is stored: {"value", "n", "interval95"}, the Wilson interval rounded to four digits."""
    low, high = wilson_interval(hits, n)
    return {"value": hits / n, "n": n, "interval95": [round(low, 4), round(high, 4)]}


def accuracy(classifier: Classifier, data: ImageData) -> dict:
    """The share of images whose likeliest class is the label."""
    return share(int((classifier.classify(data.images).argmax(1) == data.labels).sum()), len(data))


@torch.inference_mode()
def accuracy_by_level(classifier: Classifier, data: ImageData, batch: int = 500) -> list[dict]:
    """For each sigma of MEASURED_AT: the accuracy, and "nll", the mean of -ln p(label). One draw of noise per image, from seed 0."""
    rows = []
    for sigma in MEASURED_AT:
        g, hits, nll = torch.Generator().manual_seed(0), 0, 0.0
        for at in range(0, len(data), batch):
            x, label = to_model(data.images[at : at + batch]), data.labels[at : at + batch]
            x = add_noise(x, torch.tensor(sigma), torch.randn(x.shape, generator=g)).to(classifier.device)
            log_p = classifier.log_probabilities(x, sigma).cpu()
            hits += int((log_p.argmax(1) == label).sum())
            nll -= float(log_p.gather(1, label[:, None]).double().sum())
        rows.append({"sigma": sigma, **share(hits, len(data)), "nll": nll / len(data)})
    return rows


def measured(path: str, noise_aware: bool, device: torch.device, test: ImageData) -> dict:
    """The accuracy of the saved weights. For a noise-aware classifier "by_level" lists all levels and "value" is that of sigma 0."""
    classifier = load_classifier(path, device, noise_aware)
    if not noise_aware:
        return {"name": "accuracy", **accuracy(classifier, test)}
    rows = accuracy_by_level(classifier, test)
    return {"name": "accuracy", **{k: rows[0][k] for k in ("value", "n", "interval95")}, "by_level": rows}


def network_config(data: ImageData, settings: ClassifierTraining) -> ClassifierConfig:
    """The configuration of the network for these images: small for digits, larger for photos, narrower for noise-aware classifiers."""
    digits, size = data.images.shape[1] == 1, data.images.shape[-1]
    images = dict(data=data.name, classes=data.classes, image_size=size, in_channels=data.images.shape[1])
    if settings.noisy:
        schedule = {"name": settings.schedule, "T": make_schedule(settings.schedule).T}
        return NoisyConfig(**images, **(NOISY_DIGITS if digits else NOISY_PHOTOS), schedule=schedule)
    return ClassifierConfig(**images, **(PHOTOS if not digits else DIGITS if size >= 16 else TINY))


def train(settings: ClassifierTraining, command: str) -> dict:
    """Train, save, measure the saved weights once on the test split, and write the card. Returns the measured accuracy.

    command: the command line, which the card repeats. Raises ValueError for data or weights that cannot be used."""
    device = pick_device(settings.device)
    named = settings.data in KNOWN
    data = load_data(settings.data)
    training, test = (data, load_data(settings.data, "test")) if named else split(data)
    if data.images.shape[1] == 1:
        settings = dataclasses.replace(settings, cutout=0)
    config = network_config(data, settings)
    start = load_classifier(settings.init, noise_aware=settings.noisy) if settings.init else None
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    network = (NoisyResNet if settings.noisy else ResNet)(config).to(device, memory_format=LAYOUT)
    if start is not None:
        try:
            network.load_state_dict(start.network.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{settings.init} holds a network of another shape") from error
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{describe(device)}; {len(training)} images of {data.name}; {parameters / 1e6:.2f} M parameters", flush=True)
    seen, seconds = fit(network, training, settings, device)
    stored = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("out", "every")}
    stored |= {"seconds": round(seconds, 1), "device": describe(device)}
    if start is not None:
        stored["begun_from"] = {"images_seen": start.config.images_seen, "training": start.config.training}
    images_seen = seen + (start.config.images_seen if start else 0)
    config = dataclasses.replace(config, images_seen=images_seen, training=stored)
    save_classifier(settings.out, config, network)
    metric = measured(settings.out, settings.noisy, device, test)
    metric["protocol"] = f"all {len(test)} images of {'the test split' if named else 'a tenth held out (seed 0)'}"
    metric["protocol"] += ", one draw of noise each (seed 0)" if settings.noisy else ", no test-time augmentation"
    metric["trained_on"] = f"all {len(training)} images of {'the training split' if named else 'the other nine tenths'}"
    config = dataclasses.replace(config, metrics=[metric])
    save_classifier(settings.out, config, network)
    write_atomically(Path(settings.out) / "README.md", classifier_card(config, metric, parameters, command))
    return metric | {"images": seen, "seconds": seconds}
