#!/usr/bin/env python
"""Train the small CLIP that ships: CIFAR-10's pictures against captions made from the search terms in its file names.

    python train/train_clip.py --minutes 25 --init-image checkpoints/classifiers/cifar10 --out checkpoints/clip/cifar10
    python train/train_clip.py --minutes 4 --batch 1024 --out checkpoints/clip/cifar10     # on a GPU, from nothing

"tabby_cat_s_000123" becomes "a photo of a tabby cat, a type of cat", and in other steps "a tabby cat" or "a photo of a cat": some
390 terms of ten classes, several templates. A caption is true of many pictures of a batch, so every true pair is a positive (Yang et
al. 2022, UniCL). With --init-image the tower begins as the classifier, stays locked at first (Zhai et al. 2022, LiT) and then learns on
at a tenth of the rate. Rows of the token table that no caption uses are zero and stay so; captions get random unknown tokens, so
that words it does not know change little. The test split is looked at once, after the end, with the weights that were saved.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

import project
from ddpm_app.checkpoints.checkpoint import check_keys, read_weights
from ddpm_app.classifiers.captions import Captioner, Pictures, load
from ddpm_app.classifiers.classifier import load_classifier
from ddpm_app.classifiers.clip import Clip, build_model, open_clip_directory, save_clip_directory
from ddpm_app.classifiers.clip_scores import class_prompts, score
from ddpm_app.classifiers.clip_tower import tower_name
from ddpm_app.classifiers.metrics import wilson
from ddpm_app.files import write_atomically
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.device import describe, keep_freed_memory, pick_device, pick_dtype
from train_classifier import LAYOUT, PHOTOS, augment, one_cycle

PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}  # = model space


def model_config(widths=PHOTOS["widths"], blocks=PHOTOS["blocks"], embed=128, width=64, layers=2, context=24) -> dict:
    """Our two towers in open_clip's words."""
    vision = {"timm_model_name": tower_name(widths, blocks), "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = {"context_length": context, "vocab_size": 49408, "width": width, "heads": max(width // 16, 1), "layers": layers}
    return {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}


def true_pairs(term: Tensor, label: Tensor, captions: list[tuple[int, int, bool]]) -> Tensor:
    """bool (B, U): whether caption u, made from (term, label, of the class alone), is true of picture i."""
    u_term, u_label, of_class = (torch.tensor(column, device=term.device) for column in zip(*captions))
    return torch.where(of_class.bool(), label[:, None] == u_label, (term[:, None] == u_term) & (label[:, None] == u_label))


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """Mean over pictures and over captions of the cross-entropy against all that is true of each, in equal shares (UniCL)."""
    rows, columns = (-(lp * true).sum(d) / true.sum(d) for d, lp in ((1, logits.log_softmax(1)), (0, logits.log_softmax(0))))
    return (rows.mean() + columns.mean()) / 2


def begin_from_classifier(model, path: str) -> str:
    """Give the image tower the classifier's weights, all but its last layer; its digest. Raises ValueError where shapes differ."""
    classifier = load_classifier(path)
    theirs = {k: v for k, v in classifier.network.state_dict().items() if not k.startswith("head.")}
    check_keys(theirs, model.visual.trunk, path)
    model.visual.trunk.load_state_dict(theirs)
    return classifier.digest


def fit(model, pictures: Pictures, captioner: Captioner, args: argparse.Namespace, device: torch.device, keep) -> tuple[int, float]:
    """Train in place over the whole budget; keep(images seen, seconds) at every snapshot. Returns images seen and seconds."""
    dtype = pick_dtype(device, args.precision)
    images, labels, terms = pictures.data.images.to(device), pictures.data.labels.to(device), pictures.term.to(device)
    pairs = set(zip(pictures.term.tolist(), pictures.data.labels.tolist()))
    known, table = captioner.known(pairs).to(device), model.token_embedding.weight
    table.data *= known[:, None]
    table.register_hook(lambda gradient: gradient * known[:, None])
    trunk = list(model.visual.trunk.parameters())
    others = [p for p in model.parameters() if not any(p is t for t in trunk)]
    share = 0.1 if args.init_image or args.init else 1.0  # a tower that can see already learns on slowly
    groups = [(trunk, share, True), (trunk, share, False), (others, 1.0, True), (others, 1.0, False)]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in ps if (p.ndim > 1 and p is not table) == decays], "rate": rate, "weight_decay": 0.05 * decays}
            for ps, rate, decays in groups
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    g, locked = torch.Generator(device).manual_seed(args.seed), args.locked if args.init_image else 0.0
    per_epoch, minutes = max(len(images) // args.batch, 1), args.minutes
    started, step, kept, order = time.perf_counter(), 0, 0.0, None
    model.train()
    while True:
        seconds = time.perf_counter() - started
        progress = step / args.steps if args.steps else seconds / (60 * minutes)
        if progress >= 1 or seconds > args.max_seconds:
            break
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=g, device=device)
        index = order[(step % per_epoch) * args.batch :][: args.batch]
        x = augment(to_model(images[index]), 4, True, 0, g).contiguous(memory_format=LAYOUT)
        tokens, captions = captioner(terms[index], labels[index])
        for group in optimiser.param_groups:
            group["lr"] = args.lr * group["rate"] * max(one_cycle(progress, 0.1), 1e-3)
        still = progress < locked
        model.visual.trunk.train(not still).requires_grad_(not still)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            seen, read = model.encode_image(x), model.encode_text(tokens.to(device))
        seen, read = nnf.normalize(seen.float(), dim=1), nnf.normalize(read.float(), dim=1)
        loss = contrast(model.logit_scale.exp() * seen @ read.T, true_pairs(terms[index], labels[index], captions))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(0, math.log(100))  # as in the paper
        step += 1
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss is {loss.item()} at step {step}; try a smaller --lr")
        if step % args.every == 0:
            rate = step * args.batch / (time.perf_counter() - started)
            print(
                f"{progress:6.1%}  epoch {step / per_epoch:.2f}  loss {loss.item():.4f}  scale {model.logit_scale.exp().item():.1f}  "
                f"{rate:.0f} images/s",
                flush=True,
            )
        if args.snapshot_minutes and seconds - kept > 60 * args.snapshot_minutes:
            kept = seconds
            keep(step * args.batch, seconds)
    return step * args.batch, time.perf_counter() - started


def measure(clip: Clip, test: Pictures) -> tuple[list[dict], dict]:
    """([metrics with their protocol], the same figures as the page shows of generated images, of the real test split)."""
    data, n = test.data, len(test.data)
    features = clip.images(test.data.images, batch=256)
    s = score(features, clip.text(class_prompts(data.classes)), data.labels)
    low, high = wilson(round(s.matching * n), n)
    split = f"all {n} images of the test split"
    zero_shot = {
        "name": "zero-shot accuracy",
        "value": s.matching,
        "n": n,
        "interval95": [round(low, 4), round(high, 4)],
        "protocol": f'{split}, the ten prompts "a photo of a {{class}}", no test-time augmentation',
    }
    fine = [f"a photo of a {test.terms[t]}, a type of {data.classes[c]}" for t, c in zip(test.term.tolist(), data.labels.tolist())]
    distinct = sorted(set(fine))
    mine = torch.tensor([distinct.index(text) for text in fine])
    similarity = features @ clip.text(distinct).T
    hits = int((similarity.topk(min(5, len(distinct)), 1).indices == mine[:, None]).any(1).sum())
    low, high = wilson(hits, n)
    top5 = {
        "name": "fine term in the first five",
        "value": hits / n,
        "n": n,
        "interval95": [round(low, 4), round(high, 4)],
        "protocol": f"{split}, among the {len(distinct)} pairs of search term and class in their file names "
        f'(chance {min(5 / len(distinct), 1):.1%}), as "a photo of a {{term}}, a type of {{class}}"',
    }
    real = {"n": n, "average_top1": s.average_top1, "matching": s.matching, "intended": s.intended}
    real |= {"by_class": list(s.by_class), "protocol": zero_shot["protocol"]}
    return [zero_shot, top5], real


def card(facts: dict, clip: Clip, command: str) -> str:
    t, real, rows = facts["training"], facts["real"], []
    for m in facts["metrics"]:
        low, high = m["interval95"]
        rows.append(f"| {m['name']} | **{m['value']:.2%}** (95 %: {low:.2%} to {high:.2%}) | {m['protocol']} |")
    judge = (
        f"Its image tower began as the classifier in `{facts['image_tower_from']}` (weights {facts['image_tower_digest'][:12]}).\n"
        "Where the two agree about a picture, that is one opinion, not two: it is no independent judge of that classifier,\n"
        "nor the classifier of it.\n"
        if facts["image_tower_from"]
        else "Its image tower was trained from random weights.\n"
    )
    whole, tower = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (clip.model, clip.model.visual))
    return f"""# A small CLIP of CIFAR-10

**It knows CIFAR-10 only**: ten classes, {facts["terms"]} search terms, 32x32 photos. Words that are in none of its captions ("blue",
"left", "two") are read as nothing, and "red" it knows from "red deer". Similarities of two CLIPs cannot be compared: 0.9 here and
0.3 of ViT-B/32 are other scales.

An open_clip model of our own configuration: a residual network ({tower:.2f} M parameters) and a text transformer
({whole - tower:.2f} M). Read it with `ddpm_app.clip_labels.load_clip()`. Weights fp16 (float32 norm statistics), judged in float32.

| measured | value | protocol |
|---|---|---|
{chr(10).join(rows)}
| average top-1 similarity of real images | **{real["average_top1"]:.4f}** | the same images and ten prompts |
| intended-class similarity of real images | **{real["intended"]:.4f}** | the same images and ten prompts |

{judge}
Trained on {facts["trained_on"]} images of the training split with captions made from the search terms in their file names:
{facts["images_seen"]} images in {t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}, AdamW {t["lr"]:g} (one cycle), batch {t["batch"]}.

    {command}
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, default=0.0, help="budget in minutes of training")
    budget.add_argument("--steps", type=int, default=0, help="budget in steps")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop after this, whatever the budget (default: never)")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--init-image", default="", help="directory of a classifier whose body the image tower begins with")
    parser.add_argument("--init", default="", help="directory of a CLIP that this one wrote, or a snapshot, to begin from")
    parser.add_argument("--locked", type=float, default=0.25, help="share of the budget that such a tower stays as it is (default 0.25)")
    parser.add_argument("--batch", type=int, default=256, help="images a step (default 256)")
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="peak learning rate; a tenth of it in a tower that began trained (default 0.002)"
    )
    parser.add_argument("--limit", type=int, default=0, help="use the first so many images of each split only (default: all)")
    parser.add_argument("--tiny", action="store_true", help="towers of a few thousand weights, to try this script")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="of matrix products (default auto)")
    parser.add_argument(
        "--snapshot-minutes", type=float, default=5.0, help="minutes between snapshots in OUT/snapshots, 0: none (default 5)"
    )
    parser.add_argument("--every", type=int, default=20, help="steps between printed lines (default 20)")
    args = parser.parse_args(argv)
    if args.minutes <= 0 and args.steps <= 0 or args.batch < 2 or not 0 < args.lr < 1 or not 0 <= args.locked <= 1 or args.limit < 0:
        parser.error("out of range: minutes or steps above 0, batch from 2, lr (0, 1), locked [0, 1], limit from 0")
    try:
        return run(args, "python train/train_clip.py " + " ".join(sys.argv[1:] if argv is None else argv))
    except ValueError as error:
        print(f"train_clip: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace, command: str) -> int:
    device = pick_device(args.device)
    training, test = load("train"), load("test")
    if args.limit:
        training, test = (p._replace(data=p.data.subset(slice(args.limit)), term=p.term[: args.limit]) for p in (training, test))
    keep_freed_memory()
    torch.manual_seed(args.seed)
    config = model_config((8, 16), (0, 1), 16, 16, 1) if args.tiny else model_config()
    model, tokenizer = build_model(json.loads(json.dumps(config)))
    digest = begin_from_classifier(model, args.init_image) if args.init_image else ""
    if args.init:
        weights = read_weights(Path(args.init)) | {k: v for k, v in model.state_dict().items() if "num_batches" in k}
        check_keys(weights, model, args.init)
        model.load_state_dict(weights)
    model = model.to(device, memory_format=LAYOUT)
    facts = {
        "data": "cifar10", "classes": list(CIFAR10_CLASSES), "terms": len(training.terms), "trained_on": len(training.data),
        "image_tower_from": args.init_image, "image_tower_digest": digest,
    }  # fmt: skip
    print(f"{describe(device)}; {len(training.data)} images, {len(training.terms)} terms", flush=True)

    def keep(seen: int, seconds: float) -> None:
        save_clip_directory(Path(args.out) / "snapshots" / f"{seen:010d}", model, config, PIXELS, facts | {"images_seen": seen})

    captioner = Captioner(training.terms, training.data.classes, tokenizer, config["text_cfg"]["context_length"], args.seed)
    seen, seconds = fit(model, training, captioner, args, device, keep)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "every", "snapshot_minutes") and v != math.inf}
    facts |= {"images_seen": seen, "training": settings | {"seconds": round(seconds, 1), "device": describe(device)}}
    save_clip_directory(args.out, model, config, PIXELS, facts)
    clip = open_clip_directory(args.out, device)  # what was saved, not what was trained
    facts["metrics"], facts["real"] = measure(clip, test)
    write_atomically(Path(args.out) / "clip.json", json.dumps(facts, indent=1))
    write_atomically(Path(args.out) / "README.md", card(facts, clip, command))
    print(f"{seen} images, {seconds:.0f} s; " + "; ".join(f"{m['name']} {m['value']:.4f}" for m in facts["metrics"]) + f"; {args.out}")
    return 0


if __name__ == "__main__":
    project.run(main)
