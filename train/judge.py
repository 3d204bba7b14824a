#!/usr/bin/env python
"""Let a classifier trained on real pictures judge a diffusion model: are the pictures what was asked for, and how near to real?

    python train/judge.py checkpoints/mnist --n 100 --guidance 1.5 --evaluations 20
    python train/judge.py checkpoints/mnist --n 100 --write            # adds the numbers to the model's config.json

Prints JSON: the share read as the class asked for (with its 95 % Wilson interval), the mean of the highest probability, how
often each class was read, and the Frechet distance of the classifier's features to real test pictures (FD-classifier: it
compares models judged by the same classifier with the same n, and is no FID). Real test pictures are judged beside them: no
model can be expected above that. The protocol is part of the output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import project
from ddpm_app.checkpoints.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from ddpm_app.classifiers.classifier import Classifier, load_classifier
from ddpm_app.classifiers.metrics import classifier_agreement
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS
from ddpm_app.evaluation.distances import Stats, frechet_distance, statistics
from ddpm_app.evaluation.protocol import commit
from ddpm_app.evaluation.samples import sampled
from ddpm_app.files import write_atomically
from ddpm_app.images.datasets import ImageData, load_data
from ddpm_app.networks.device import describe
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.studio import Request, Studio
from ddpm_app.training.distributed import World, join

ALONE = World()


def sample(studio: Studio, request: Request, labels: Tensor, world: World = ALONE) -> Tensor:
    """uint8 (N, C, H, W), image i from seed request.seed + i; what an interrupted call had done is found again. Several processes
    make a share each."""
    given = labels.numpy().astype(np.int64)
    if world.size > 1:
        for _ in sampled(studio, request, labels=given, share=(world.rank, world.size)):
            pass
        world.wait()
    events, begun, done, made, at_work = sampled(studio, request, labels=given), time.perf_counter(), 0, 0, False
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value[0].all()
        if event.done > done:  # a batch without a step of its own was found, and says nothing about speed
            made += (event.done - done) * at_work
            done, at_work = event.done, False
            rate = f", {made / (time.perf_counter() - begun):.1f} images/s" if made else ", made earlier"
            print(f"{done} of {event.total} images{rate}", file=sys.stderr, flush=True)
        else:
            at_work = True


def judged(classifier: Classifier, images: Tensor, labels: Tensor, reference: Stats) -> dict:
    """The figures of one set of pictures, uint8 (N, C, H, W) with the classes they should show, (N,) int64."""
    probabilities, features = classifier.classify_with_features(images)
    r, names = classifier_agreement(probabilities, labels), classifier.config.classes
    return {
        "n": r.n,
        "agreement": r.agreement,
        "interval95": [round(v, 4) for v in r.agreement_interval],
        "agreement_by_class": {name: round(share, 4) for name, share in zip(names, r.agreement_by_class) if share is not None},
        "mean_max_confidence": round(r.confidence, 4),
        "read_as": dict(zip(names, r.class_counts)),
        "FD-classifier": round(frechet_distance(statistics(features), reference), 4),
    }


def real_parts(test: ImageData, per_class: int, most: int) -> tuple[Tensor, ImageData]:
    """(reference images, pictures to judge): two halves of the test split that share no picture.

    At most `most` reference images; of the other half `per_class` a class, or as many as there are."""
    reference, rest = test.images[0::2][:most], test.subset(torch.arange(1, len(test), 2))
    index = torch.cat([(rest.labels == k).nonzero()[:per_class, 0] for k in range(len(test.classes))])
    return reference, rest.subset(index)


def report(checkpoint: Checkpoint, classifier: Classifier, test: ImageData, args: argparse.Namespace, studio: Studio, world: World) -> dict:
    """Sample, judge, and put both beside the real pictures."""
    config = checkpoint.config
    reference_images, real = real_parts(test, args.n, args.reference)
    reference = statistics(classifier.features(reference_images))
    labels = torch.arange(len(config.classes)).repeat_interleave(args.n)
    fields = {k: getattr(args, k) for k in ("sampler", "evaluations", "guidance", "seed")}
    request = Request(str(checkpoint.path), n=len(labels), grid=args.grid or "auto", **fields)
    images = sample(studio, request, labels, world)
    protocol = {
        "n_per_class": args.n,
        "sampler": args.sampler,
        "evaluations": request.true_evaluations,
        "grid": args.grid or SAMPLERS[args.sampler].grid,
        "guidance": args.guidance,
        "seed": args.seed,
        "ema": config.ema,
        "images_seen": config.images_seen,
        "precision": str(studio.dtype).removeprefix("torch."),
        "device": describe(studio.device),
        "classifier": {
            "data": classifier.config.data,
            "accuracy": next((m["value"] for m in classifier.config.metrics if m.get("name") == "accuracy"), None),
            "sha256": classifier.digest,
        },
        "reference": f"{len(reference_images)} images of the {test.name} test split (every second); "
        f"the real row is {len(real)} of the others",
        "commit": commit(),
    }
    return {
        "checkpoint": checkpoint.name,
        "generated": judged(classifier, images, labels, reference),
        "real": judged(classifier, real.images, real.labels, reference),
        "protocol": protocol,
    }


def metrics_of(result: dict) -> list[dict]:
    """Two entries for the model's card, each with its protocol as a sentence and as settings."""
    g, r, p = result["generated"], result["real"], result["protocol"]
    accuracy = p["classifier"]["accuracy"]
    how = (
        f"n = {g['n']} ({p['n_per_class']} a class), {p['sampler']}, {p['evaluations']} evaluations on {p['grid']}, "
        f"guidance {p['guidance']:g}, seed {p['seed']}, {p['precision']}, EMA {p['ema'] or 'unknown'}; "
        f"{p['classifier']['data']} classifier {p['classifier']['sha256'][:8]}" + (f" of {accuracy:.2%} accuracy" if accuracy else "")
    )
    share = f"95 % {g['interval95'][0]:.4f} to {g['interval95'][1]:.4f}; real test images {r['agreement']:.4f} (n = {r['n']}); {how}"
    distance = f"features against {p['reference'].split(';')[0]}; real test images {r['FD-classifier']:g} (n = {r['n']}); {how}"
    return [
        {"name": "agreement", "value": g["agreement"], "n": g["n"], "interval95": g["interval95"], "protocol": share, "settings": p},
        {"name": "FD-classifier", "value": g["FD-classifier"], "n": g["n"], "protocol": distance, "settings": p},
    ]


def write_metrics(path: Path, metrics: list[dict]) -> None:
    """Append to the metrics in a checkpoint's config.json, read anew and replaced whole."""
    config = open_checkpoint(path).config
    write_atomically(path / "config.json", dataclasses.replace(config, metrics=[*config.metrics, *metrics]).to_json())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="directory of a class-conditional diffusion model")
    parser.add_argument("--classifier", help="directory of the classifier (default checkpoints/classifiers/<the model's data>)")
    parser.add_argument("--data", help="real pictures: a named set's test split, a folder or an .npz (default: the model's data)")
    parser.add_argument("--n", type=int, default=100, help="images a class (default 100)")
    parser.add_argument("--guidance", type=float, default=1.5, help="scale s, 1 is off (default 1.5)")
    parser.add_argument("--sampler", default="dpmpp-2m", choices=tuple(SAMPLERS), help="(default dpmpp-2m)")
    parser.add_argument("--evaluations", type=int, default=20, help="of the network an image (default 20)")
    parser.add_argument("--grid", choices=tuple(GRIDS), help="noise levels (default: the sampler's own)")
    parser.add_argument("--seed", type=int, default=0, help="image i has the seed SEED + i (default 0)")
    parser.add_argument("--reference", type=int, default=5000, help="real images the distance is measured to, at most (default 5000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--write", action="store_true", help="append the numbers to the model's config.json")
    args = parser.parse_args(argv)
    if min(args.n, args.evaluations) < 1 or args.reference < 2 or not 0 <= args.guidance <= 20 or not 0 <= args.seed < 2**62:
        parser.error("out of range: n and evaluations from 1, reference from 2, guidance 0..20, seed from 0")
    try:
        world = join(args.device)
        studio = Studio(device=args.device)
        checkpoint = open_checkpoint(args.checkpoint)
        config = checkpoint.config
        if not config.network.num_classes:
            raise ValueError(f"{args.checkpoint} was trained without classes; there is nothing to agree with")
        classifier = load_classifier(args.classifier or SHIPPED / "classifiers" / config.data, studio.device)
        test = load_data(args.data or config.data, "test", config.network.image_size)
        shape = (config.network.in_channels, config.network.image_size)
        if (classifier.config.in_channels, classifier.config.image_size) != shape or len(classifier.config.classes) != len(config.classes):
            raise ValueError(f"the {classifier.config.data} classifier does not fit the pictures or classes of {args.checkpoint}")
        result = report(checkpoint, classifier, test, args, studio, world)
        world.close()
        if not world.main:
            return 0
        if args.write:
            write_metrics(Path(args.checkpoint), metrics_of(result))
    except (CheckpointError, ValueError) as error:
        print(f"judge: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    project.run(main)
