"""Training of the small CLIP: CIFAR-10's images against captions made from the search terms in its file names.

"tabby_cat_s_000123" becomes "a photo of a tabby cat, a type of cat", and in other steps "a tabby cat" or "a photo of a cat": some
390 terms of ten classes, several templates. A caption matches many images of a batch, and every matching pair is a positive (Yang et
al. 2022, UniCL). Rows of the token table that no caption uses are zero and stay zero; captions get random unknown tokens, so that
words outside the captions change the features little.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_app.checkpoints.weights import check_weights, load_weights
from ddpm_app.classifiers.captions import CaptionedImages, Captioner, load_captioned
from ddpm_app.classifiers.card import clip_card
from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.classifiers.clip import Clip, build_model, open_clip_directory, save_clip_directory
from ddpm_app.classifiers.clip_scores import class_prompts, score
from ddpm_app.classifiers.clip_tower import tower_name
from ddpm_app.classifiers.training import LAYOUT, PHOTOS, augment, one_cycle, share
from ddpm_app.files import write_atomically
from ddpm_app.flags import check, setting
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import describe, keep_freed_memory, pick_device, pick_dtype

PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}  # = model space


@dataclass(frozen=True)
class ClipTraining:
    """The settings of a training run. The help text of a field gives its meaning and unit; flags are built from it."""

    minutes: float = setting(0.0, "budget of training; give this or --steps", unit="minutes", low=0)
    steps: int = setting(0, "budget; give this or --minutes", unit="steps", low=0)
    max_seconds: float = setting(math.inf, "stop after this time, whatever the budget", unit="seconds", above=0)
    out: str = setting("", "directory to write")
    init_image: str = setting("", "directory of a classifier whose weights the image tower starts from")
    init: str = setting("", "directory of a CLIP written by this script, or of a snapshot, to start from")
    locked: float = setting(0.25, "share of the budget in which a tower of --init-image is not trained", low=0, high=1)
    batch: int = setting(256, "images per step", low=2)
    lr: float = setting(2e-3, "peak learning rate; an image tower that starts trained uses a tenth of it", above=0, below=1)
    limit: int = setting(0, "use only this many images of each split, the first ones; 0 uses all", low=0)
    tiny: bool = setting(False, "towers of a few thousand weights, to try this script")
    seed: int = setting(0, "seed of everything random")
    device: str = setting("auto", "auto, cpu, cuda, mps")
    precision: str = setting("auto", "precision of matrix products", choices=("auto", "bf16", "fp32"))
    snapshot_minutes: float = setting(5.0, "time between snapshots in OUT/snapshots; 0 makes none", unit="minutes", low=0)
    every: int = setting(20, "steps between printed lines", low=1)

    def __post_init__(self):
        check(self)
        if not self.out:
            raise ValueError("give --out, the directory to write")
        if not (self.minutes > 0) ^ (self.steps > 0):
            raise ValueError("give a budget: either --minutes or --steps, above 0")


def model_config(widths=PHOTOS["widths"], blocks=PHOTOS["blocks"], embed=128, width=64, layers=2, context=24) -> dict:
    """An open_clip configuration of both towers. widths, blocks: of the image tower; width, layers, context: of the text tower."""
    vision = {"timm_model_name": tower_name(widths, blocks), "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = {"context_length": context, "vocab_size": 49408, "width": width, "heads": max(width // 16, 1), "layers": layers}
    return {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}


def true_pairs(term: Tensor, label: Tensor, captions: list[tuple[int, int, bool]]) -> Tensor:
    """bool (B, U): whether caption u matches image i. captions: (term, label, whether it names only the class) of each."""
    u_term, u_label, of_class = (torch.tensor(column, device=term.device) for column in zip(*captions))
    return torch.where(of_class.bool(), label[:, None] == u_label, (term[:, None] == u_term) & (label[:, None] == u_label))


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """The loss of UniCL. logits (B, U); true (B, U) bool: the matching pairs.

    The cross-entropy of each image against its matching captions in equal shares, averaged over the images; the same for each
    caption against its images; the mean of the two."""
    rows, columns = (-(lp * true).sum(d) / true.sum(d) for d, lp in ((1, logits.log_softmax(1)), (0, logits.log_softmax(0))))
    return (rows.mean() + columns.mean()) / 2


def begin_from_classifier(model, path: str) -> str:
    """Copy a classifier's weights, all but its last layer, to the image tower. Returns its digest.

    Raises ValueError where the shapes differ."""
    classifier = load_classifier(path)
    weights = {k: v for k, v in classifier.network.state_dict().items() if not k.startswith("head.")}
    check_weights(weights, model.visual.trunk, path)
    model.visual.trunk.load_state_dict(weights)
    return classifier.digest


def fit(
    model, images: CaptionedImages, captioner: Captioner, settings: ClipTraining, device: torch.device, save: Callable[[int], None]
) -> tuple[int, float]:
    """Train in place over the whole budget. Returns the number of images seen and the seconds it took.

    save: called with the number of images seen at every snapshot. Raises ValueError where the loss is no longer finite."""
    dtype = pick_dtype(device, settings.precision)
    pixels, labels, terms = images.data.images.to(device), images.data.labels.to(device), images.term.to(device)
    pairs = set(zip(images.term.tolist(), images.data.labels.tolist()))
    used, table = captioner.used_tokens(pairs).to(device), model.token_embedding.weight
    table.data *= used[:, None]
    table.register_hook(lambda gradient: gradient * used[:, None])
    trunk = list(model.visual.trunk.parameters())
    others = [p for p in model.parameters() if not any(p is t for t in trunk)]
    trunk_rate = 0.1 if settings.init_image or settings.init else 1.0  # a trained tower continues at a tenth of the rate
    groups = [(trunk, trunk_rate, True), (trunk, trunk_rate, False), (others, 1.0, True), (others, 1.0, False)]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in ps if (p.ndim > 1 and p is not table) == decays], "rate": rate, "weight_decay": 0.05 * decays}
            for ps, rate, decays in groups
        ],
        lr=settings.lr,
        betas=(0.9, 0.98),
    )
    g, locked = torch.Generator(device).manual_seed(settings.seed), settings.locked if settings.init_image else 0.0
    per_epoch = max(len(pixels) // settings.batch, 1)
    started, step, saved, order = time.perf_counter(), 0, 0.0, None
    model.train()
    while True:
        seconds = time.perf_counter() - started
        progress = step / settings.steps if settings.steps else seconds / (60 * settings.minutes)
        if progress >= 1 or seconds > settings.max_seconds:
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(pixels), generator=g, device=device)
        index = order[(step % per_epoch) * settings.batch :][: settings.batch]
        x = augment(to_model(pixels[index]), 4, True, 0, g).contiguous(memory_format=LAYOUT)
        tokens, captions = captioner(terms[index], labels[index])
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * group["rate"] * max(one_cycle(progress, 0.1), 1e-3)
        trains_trunk = progress >= locked  # Zhai et al. 2022, LiT
        model.visual.trunk.train(trains_trunk).requires_grad_(trains_trunk)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            image_features, text_features = model.encode_image(x), model.encode_text(tokens.to(device))
        image_features, text_features = (nnf.normalize(f.float(), dim=1) for f in (image_features, text_features))
        logits = model.logit_scale.exp() * image_features @ text_features.T
        loss = contrast(logits, true_pairs(terms[index], labels[index], captions))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(0, math.log(100))  # Radford et al. 2021
        step += 1
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss is {loss.item()} at step {step}; try a smaller --lr")
        if step % settings.every == 0:
            rate, scale = step * settings.batch / (time.perf_counter() - started), model.logit_scale.exp().item()
            epoch = f"epoch {step / per_epoch:.2f}  loss {loss.item():.4f}"
            print(f"{progress:6.1%}  {epoch}  scale {scale:.1f}  {rate:.0f} images/s", flush=True)
        if settings.snapshot_minutes and seconds - saved > 60 * settings.snapshot_minutes:
            saved = seconds
            save(step * settings.batch)
    return step * settings.batch, time.perf_counter() - started


def measure(clip: Clip, test: CaptionedImages) -> tuple[list[dict], dict]:
    """([metrics with their protocol], the figures of these real images that the page shows beside those of generated images)."""
    data, n = test.data, len(test.data)
    features = clip.images(data.images, batch=256)
    scores = score(features, clip.text(class_prompts(data.classes)), data.labels)
    split = f"all {n} images of the test split"
    protocol = f'{split}, the ten prompts "a photo of a {{class}}", no test-time augmentation'
    zero_shot = {"name": "zero-shot accuracy", **share(round(scores.matching * n), n), "value": scores.matching, "protocol": protocol}
    fine = [f"a photo of a {test.terms[t]}, a type of {data.classes[c]}" for t, c in zip(test.term.tolist(), data.labels.tolist())]
    distinct = sorted(set(fine))
    wanted = torch.tensor([distinct.index(text) for text in fine])
    similarity = features @ clip.text(distinct).T
    hits = int((similarity.topk(min(5, len(distinct)), 1).indices == wanted[:, None]).any(1).sum())
    top5 = {
        "name": "fine term in the first five",
        **share(hits, n),
        "protocol": f"{split}, among the {len(distinct)} pairs of search term and class in their file names "
        f'(chance {min(5 / len(distinct), 1):.1%}), as "a photo of a {{term}}, a type of {{class}}"',
    }
    real = {"n": n, "average_top1": scores.average_top1, "matching": scores.matching, "intended": scores.intended}
    return [zero_shot, top5], real | {"by_class": list(scores.by_class), "protocol": protocol}


def train(settings: ClipTraining, command: str) -> dict:
    """Train, save, measure the saved weights once on the test split, and write the card. Returns the content of clip.json.

    command: the command line, which the card repeats. Raises ValueError for data or weights that cannot be used."""
    device = pick_device(settings.device)
    training, test = load_captioned("train"), load_captioned("test")
    if settings.limit:
        training, test = (p._replace(data=p.data.subset(slice(settings.limit)), term=p.term[: settings.limit]) for p in (training, test))
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    config = model_config((8, 16), (0, 1), 16, 16, 1) if settings.tiny else model_config()
    model, tokenizer = build_model(json.loads(json.dumps(config)))
    digest = begin_from_classifier(model, settings.init_image) if settings.init_image else ""
    if settings.init:
        load_weights(model, Path(settings.init))
    model = model.to(device, memory_format=LAYOUT)
    facts = {
        "data": "cifar10", "classes": list(CIFAR10_CLASSES), "terms": len(training.terms), "trained_on": len(training.data),
        "image_tower_from": settings.init_image, "image_tower_digest": digest,
    }  # fmt: skip
    print(f"{describe(device)}; {len(training.data)} images, {len(training.terms)} terms", flush=True)

    def save(seen: int) -> None:
        save_clip_directory(Path(settings.out) / "snapshots" / f"{seen:010d}", model, config, PIXELS, facts | {"images_seen": seen})

    captioner = Captioner(training.terms, training.data.classes, tokenizer, config["text_cfg"]["context_length"], settings.seed)
    seen, seconds = fit(model, training, captioner, settings, device, save)
    unstored = ("out", "every", "snapshot_minutes")
    stored = {k: v for k, v in dataclasses.asdict(settings).items() if k not in unstored and v != math.inf}
    facts |= {"images_seen": seen, "training": stored | {"seconds": round(seconds, 1), "device": describe(device)}}
    save_clip_directory(settings.out, model, config, PIXELS, facts)
    clip = open_clip_directory(settings.out, device)
    facts["metrics"], facts["real"] = measure(clip, test)
    write_atomically(Path(settings.out) / "clip.json", json.dumps(facts, indent=1))
    tower, whole = (sum(p.numel() for p in part.parameters()) for part in (clip.model.visual, clip.model))
    write_atomically(Path(settings.out) / "README.md", clip_card(facts, tower, whole, command))
    return facts
