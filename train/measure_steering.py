#!/usr/bin/env python
"""What steering does to a model's images: agreement with the class asked for, confidence, CLIP similarity, and what a step costs.

    python train/measure_steering.py mnist --n 100 --classifier-scales 0,1,2,4
    python train/measure_steering.py cifar10 --n 100 --classifier-scales 0,1,2,4 --candidates 4
    python train/measure_steering.py cifar10 --n 32 --text "a photo of a horse" --text-class horse --text-scales 0,30,100

Classifier guidance steers the unconditional prediction (guidance 0) toward each image's class; "conditional" is the model told the
class (guidance 1), "classifier-free" the page's default. Agreement is read by the classifier that never saw noise: it is another network
than the one that guides, but ranking by it and then reading by it is circular, and the row says so.

With --text every image is drawn from the model without a class, and guided by the shipped CLIP, which measures the similarity, too.
Agreement with --text-class is then read by the noise-aware classifier, at sigma 0: the other one's weights are what CLIP's image tower
began from, so it would see with the guide's eyes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

import torch

import project
from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.images.pixels import to_model
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio


def plan(args: argparse.Namespace) -> list[tuple[str, Request]]:
    """The rows: a name and the request it stands for."""
    base = Request(args.checkpoint, "all", args.n, 1.0, evaluations=args.evaluations, seed=args.seed)
    if args.text:
        plain = dataclasses.replace(base, label=args.text_class or "none", guidance=0.0, text=args.text, text_through=args.text_through)
        rows = [(f"text scale {s:g}", dataclasses.replace(plain, text_scale=s)) for s in args.text_scales]
        ranked = dataclasses.replace(plain, text_scale=0.0, candidates=args.candidates, rank_by="clip")
        return rows + ([(f"best of {args.candidates} by CLIP", ranked)] if args.candidates > 1 else [])
    rows = [("unconditional", dataclasses.replace(base, guidance=0.0)), ("conditional", base)]
    rows += [("classifier-free 1.5", dataclasses.replace(base, guidance=1.5))]
    for s in args.classifier_scales:
        rows.append((f"unconditional + classifier {s:g}", dataclasses.replace(base, guidance=0.0, classifier_scale=s)))
    for s in args.on_top:
        rows.append((f"conditional + classifier {s:g}", dataclasses.replace(base, classifier_scale=s)))
    if args.candidates > 1:
        for judge in ("classifier", "clip") if args.checkpoint_is_colour else ("classifier",):
            name = f"conditional, best of {args.candidates} by {judge}" + (" (circular)" if judge == "classifier" else "")
            rows.append((name, dataclasses.replace(base, candidates=args.candidates, rank_by=judge)))
    return rows


def measured(studio: Studio, name: str, request: Request, text: str) -> dict:
    """A row: generate and judge."""
    config = studio.checkpoint(request.checkpoint).config
    begun = time.perf_counter()
    found = studio.ranked(request)
    seconds = time.perf_counter() - begun
    images, n = torch.from_numpy(found.images).permute(0, 3, 1, 2).contiguous(), len(found.images)
    row = {"row": name, "n": n, "ms an evaluation": round(1000 * seconds / (n * request.candidates * request.true_evaluations), 2)}
    if found.labels.min() >= 0:
        if text:
            with torch.inference_mode():
                probabilities = studio.steering.noisy(config).log_probabilities(to_model(images).to(studio.device), 0.0).exp().cpu()
        else:
            probabilities = studio.steering.classifier(config).classify(images)
        hits = int((probabilities.argmax(1) == torch.from_numpy(found.labels)).sum())
        low, high = wilson_interval(hits, n)
        row |= {"agreement": hits / n, "interval95": [round(low, 3), round(high, 3)]}
        row |= {"mean confidence": round(float(probabilities.max(1).values.mean()), 3)}
    if text or config.network.in_channels == 3 and found.labels.min() >= 0:
        with_clip = dataclasses.replace(request, rank_by="clip", text=text)
        try:
            similar = studio.steering.scores(with_clip, config, images.numpy(), found.labels)
            row |= {"CLIP similarity": round(float(similar.mean()), 4), "error": round(float(similar.std(ddof=1) / n**0.5), 4)}
        except ValueError as error:
            row |= {"CLIP similarity": None, "why": str(error)}
    if request.candidates > 1:
        row |= {"score of the kept": round(float(found.scores.max(0).mean()), 4), "of all": round(float(found.scores.mean()), 4)}
    return row


def numbers(text: str) -> list[float]:
    return [float(v) for v in text.split(",")] if text else []


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="name of a class-conditional model in checkpoints/ or runs/")
    parser.add_argument("--n", type=int, default=100, help="images a row, the classes in turn (default 100)")
    parser.add_argument("--evaluations", type=int, default=20, help="of the denoiser an image (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default 0)")
    parser.add_argument("--classifier-scales", type=numbers, default=[], help="of classifier guidance alone, e.g. 1,2,4")
    parser.add_argument("--on-top", type=numbers, default=[], help="of classifier guidance on top of the conditional model")
    parser.add_argument("--candidates", type=int, default=1, help="re-ranking: the best of this many (default 1: none)")
    parser.add_argument("--text", default="", help="CLIP guidance toward this text instead")
    parser.add_argument("--text-scales", type=numbers, default=[0.0, 30.0], help="of the CLIP guidance (default 0,30)")
    parser.add_argument("--text-through", default=Request.text_through, help="denoiser or x0 (default denoiser)")
    parser.add_argument("--text-class", default="", help="class that the text describes, for the agreement")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--json", action="store_true", help="print JSON, one row a line")
    args = parser.parse_args(argv)
    try:
        studio = Studio(device=args.device)
        args.checkpoint_is_colour = studio.checkpoint(args.checkpoint).config.network.in_channels == 3
        for name, request in plan(args):
            row = measured(studio, name, request, args.text)
            print(json.dumps(row) if args.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    except ValueError as error:
        print(f"measure_steering: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    project.run(main)
