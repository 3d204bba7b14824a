"""The engine: images -> features -> statistics -> distances, each number with its protocol.

evaluate() is a generator: the watcher prints, plots, stops. What cannot be measured becomes a Refusal, one sentence; the other
metrics are still computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.measurements import Measurement
from ddpm_app.classifiers import classifier
from ddpm_app.evaluation import features, image_metrics
from ddpm_app.evaluation.bits import _dtype, measure_bits
from ddpm_app.evaluation.features import Extractor
from ddpm_app.evaluation.image_metrics import Subject, Value
from ddpm_app.evaluation.plan import BITS, Plan, sample_requests
from ddpm_app.evaluation.protocol import Refusal, commit, named, protocol_of, reference_of, software
from ddpm_app.evaluation.samples import given, sampled, samples_of, weights_digest
from ddpm_app.flags import changed
from ddpm_app.images.datasets import KNOWN, load_data
from ddpm_app.images.sets import Images, Progress
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.studio import Studio


def evaluate(studio: Studio, plan: Plan) -> Iterator[Progress | Measurement | Refusal]:
    """Measure all of plan.metrics. Closing it stops at the next step of the network; whole batches are kept and found again.

    Raises ValueError for a plan that cannot begin: an unknown checkpoint, images that cannot be read, a model that gives NaN."""
    checkpoint = studio.checkpoint(plan.request.checkpoint) if plan.request.checkpoint or not plan.images else None
    guess = plan.against.partition(":")[0]
    own = checkpoint.config.data if checkpoint else guess if guess in KNOWN else ""
    if plan.pictures:
        if plan.images:
            channels = checkpoint.config.network.in_channels if checkpoint else 1 if own == "mnist" else 0
            sets = [given(plan.images, channels, checkpoint.config.classes if checkpoint else KNOWN.get(own, ()))]
        else:
            sets = []
            for k, request in enumerate(sample_requests(plan)):
                what = f"sampling, set {k + 1} of {plan.seeds}" if plan.seeds > 1 else "sampling"
                sets.append((yield from sampled(studio, request, what)))
        yield from _pictures(studio, plan, checkpoint, own, sets)
    for metric in (m for m in plan.metrics if m in BITS):
        try:
            if checkpoint is None:
                raise ValueError("bits per dimension need a checkpoint")
            network = checkpoint.config.network
            data = reference_of(plan.bits_against or plan.against, own, network.image_size, network.in_channels, "test")
            yield from measure_bits(studio, checkpoint, metric, data.data, data.part, plan)
        except ValueError as error:
            yield Refusal(metric, str(error))


def _pictures(studio: Studio, plan: Plan, checkpoint: Checkpoint | None, own: str, sets: list[tuple[Images, Tensor]]):
    """The metrics that look at pictures: feature network by feature network, one pass each."""
    n, shape = sets[0][0].n, sets[0][0].shape
    subject = Subject(own, checkpoint.config.classes if checkpoint else KNOWN.get(own, ()))
    reference = None
    try:
        reference = reference_of(plan.against, own, shape[1], shape[0])
        theirs = tuple(reference.data.images.shape[1:])
        if theirs != shape:
            raise ValueError(f"the reference {reference.name} has images {theirs}; those to judge are {shape} (channels, height, width)")
        subject.reference = reference.data
        if (reference.name, reference.part) == (own, "train"):
            subject.train = reference.data
    except ValueError as error:
        subject.no_reference = str(error)
    if own in KNOWN:  # real images beside the generated ones; without them the numbers are still there
        try:
            real = load_data(own, "test")
            subject.real = real if tuple(real.images.shape[1:]) == shape else None
        except ValueError:
            pass
    how = sampling_protocol(studio, plan, checkpoint, n) | {"software": software(), "commit": commit()}
    refused = set()
    for metric, kind in image_metrics.wanted(plan.pictures, plan.features or shipped_features(own)):
        try:
            extractor = subject.network(kind, lambda kind: build(kind, plan, own, studio.device)) if kind else None
            rows = []
            for k, (images, labels) in enumerate(sets):
                rows.append((yield from image_metrics.measure(subject, metric, extractor, images, labels, f"set {k + 1}")))
            for v in combined(rows):
                protocol = how | protocol_of(v.name, extractor, reference, own, n)
                yield Measurement(named(v.name, extractor, reference, own, n), v.value, v.error, v.detail, protocol)
        except ValueError as error:
            if (metric, str(error)) not in refused:  # several networks may fail for one reason
                refused.add((metric, str(error)))
                yield Refusal(metric, str(error))


def neighbour_pairs(studio: Studio, plan: Plan, measured: Measurement, most: int = 10) -> list[tuple[Tensor, Tensor, float]]:
    """(sample, its nearest training image, both uint8 (C, H, W), distance) of a closer-than-real measurement, closest first."""
    checkpoint = studio.checkpoint(plan.request.checkpoint) if plan.request.checkpoint else None
    own = checkpoint.config.data if checkpoint else plan.against.partition(":")[0]
    images = given(plan.images, 1 if own == "mnist" else 0)[0] if plan.images else samples_of(studio, plan.request)
    train = load_data(own, "train").images
    return [(images.part(i, i + 1)[0], train[j], d) for i, j, d in measured.detail["closest"][:most]]


def shipped_features(own: str) -> tuple[str, ...]:
    """The feature networks that need no download: the CLIP that ships knows CIFAR-10 only."""
    return ("classifier", "clip") if own == "cifar10" else ("classifier",)


def build(kind: str, plan: Plan, own: str, device: torch.device) -> Extractor:
    """A feature network. Raises ValueError where it cannot be had."""
    if kind == "classifier":
        path = Path(plan.classifier) if plan.classifier else SHIPPED / "classifiers" / (own or "-")
        if not plan.classifier and not (path / "classifier.json").is_file():
            raise ValueError(f"there is no classifier for {own or 'these images'} here; train/train_classifier.py makes one")
        return features.classifier_features(classifier.load_classifier(path, device))
    if kind == "clip":
        from ddpm_app.classifiers.clip import load_clip

        if plan.clip == "shipped" and own != "cifar10":
            raise ValueError(f"the CLIP that ships knows CIFAR-10 only, not {own or 'these images'}; name another as MODEL:PRETRAINED")
        return features.clip_features(load_clip(plan.clip, device))
    return features.inception_features(plan.inception, device)


def combined(sets: list[list[Value]]) -> list[Value]:
    """A list of values a set -> one list: means, with the deviation over sets as the error, where there are several sets."""
    if len(sets) == 1:
        return sets[0]
    rows = []
    for same in zip(*sets):
        numbers = torch.tensor([v.value for v in same], dtype=torch.float64)
        detail = {
            **same[0].detail,
            "seeds": numbers.tolist(),
            "error is": "standard deviation over seeds; other parts are the first seed's",
        }
        rows.append(Value(same[0].name, float(numbers.mean()), float(numbers.std()), detail))
    return rows


def sampling_protocol(studio: Studio, plan: Plan, checkpoint: Checkpoint | None, n: int) -> dict:
    """How the images came about."""
    rows: dict = {"n": n, "date": time.strftime("%Y-%m-%d")}
    if plan.images:
        return rows | {"images": Path(plan.images).name}
    r, config = plan.request, checkpoint.config
    rows |= {
        "checkpoint": checkpoint.name,
        "weights": weights_digest(checkpoint)[:16],
        "ema": config.ema,
        "images_seen": config.images_seen,
    }
    rows |= {"sampler": r.sampler, "evaluations": r.true_evaluations, "guidance": r.guidance, "class": r.label, "grid": r.grid}
    rows |= {k: v for k, v in changed(r).items() if k not in ("checkpoint", "n", "seed", "label", *rows)}
    return rows | {"seed": r.seed, "seeds": plan.seeds, "precision": _dtype(studio), "device": studio.device.type}


# -- bits per dimension ---------------------------------------------------------------------------------------------------------
