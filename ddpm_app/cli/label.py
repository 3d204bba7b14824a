"""python -m ddpm_app label: find the best prompt for each image with CLIP and compare it with the image's class."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

from ddpm_app.classifiers.clip import DEFAULT_HUB, load_clip
from ddpm_app.classifiers.clip_scores import check_prompts, class_prompts
from ddpm_app.images.datasets import CIFAR10_CLASSES, KNOWN
from ddpm_app.networks.device import pick_device
from ddpm_app.studio.clip_report import Report, open_source, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, help="FILE.npz, a folder with one sub-folder per class, or a folder of images")
    parser.add_argument(
        "--clip", default="shipped", help=f"shipped, or an open_clip model and its weights, such as {DEFAULT_HUB} (default shipped)"
    )
    parser.add_argument(
        "--prompts", default="", help="file with one prompt per line (default: one per class of the images, of CIFAR-10 or of MNIST)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every image's best prompt and similarity")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def run(args: argparse.Namespace) -> int:
    terminal = sys.stderr.isatty()

    def show_progress(share: float, what: str) -> None:
        if terminal:
            print(f"\r{what} {share:.0%}  ", end="", file=sys.stderr)

    prompts = check_prompts(Path(args.prompts).read_text(errors="replace")) if args.prompts else None
    if not Path(args.images).exists():
        raise ValueError(f"--images is {args.images}, which does not exist; an .npz file or a folder of images is accepted")
    clip = load_clip(args.clip, pick_device(args.device), show_progress)
    with contextlib.redirect_stdout(sys.stderr):  # notes about files that were left out must not be in the JSON
        pictures = open_source(args.images, clip.image_size)
    if prompts is None:
        grey = pictures.images.shape[1] == 1
        prompts = class_prompts(pictures.classes or (KNOWN["mnist"] if grey else CIFAR10_CLASSES))
    clip_report = report(clip, pictures, prompts, lambda k, n: show_progress(k / n, "images"))
    if terminal:
        print(file=sys.stderr)
    for note in pictures.notes:
        print(note, file=sys.stderr)
    print(json.dumps(as_json(clip_report), indent=1) if args.json else as_text(clip_report))
    return 0


def as_json(r: Report) -> dict:
    """What --json prints."""
    s, classes = r.scores, r.pictures.classes
    rows = [
        {"best": r.prompts[b], "similarity": round(float(t), 4), "class": classes[k] if k >= 0 else None}
        for b, t, k in zip(s.best.tolist(), s.top1.tolist(), r.pictures.labels.tolist())
    ]
    out = {"clip": r.clip.name, "digest": r.clip.digest, "n": len(rows), "average_top1": s.average_top1}
    out |= {"matching": s.matching, "intended": s.intended, "judged": s.judged, "unknown_words": r.unknown, "prompts": r.prompts}
    return out | {"by_class": [{"class": c, **row} for c, row in zip(classes, s.by_class)], "images": rows}


def as_text(r: Report) -> str:
    """A line per prompt, then the averages."""
    s, lines = r.scores, []
    counts = Counter(s.best.tolist())
    width = max(map(len, r.prompts))
    for p, prompt in enumerate(r.prompts):
        lines.append(f"{prompt:{width}}  best of {counts[p]:6,}  mean similarity {float(s.similarity[:, p].mean()):7.4f}")
    lines.append(f"{len(s.best):,} images, {r.clip.name} ({r.clip.digest[:12]}): average top-1 similarity {s.average_top1:.4f}")
    if s.matching is not None:
        lines.append(f"matching accuracy {s.matching:.4f}, intended-class similarity {s.intended:.4f} (of {s.judged:,} with a known class)")
    if r.unknown:
        lines.append(f"words that were not in this CLIP's training captions and have no effect: {', '.join(r.unknown)}")
    return "\n".join(lines)
