"""Measures a plan: images -> features -> statistics -> distances, each number with its protocol.

evaluate() is a generator: its caller shows the events and may stop it. A metric that cannot be measured yields a Refusal; the other
metrics are still measured.
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
from ddpm_app.evaluation.bits import measure_bits
from ddpm_app.evaluation.features import Extractor
from ddpm_app.evaluation.image_metrics import Subject, Value
from ddpm_app.evaluation.plan import BITS, Plan, sample_requests
from ddpm_app.evaluation.protocol import Refusal, commit, precision_of, protocol_of, published_name, reference_of, software
from ddpm_app.evaluation.samples import load_images, sampled, samples_of, weights_digest
from ddpm_app.flags import changed
from ddpm_app.images.datasets import KNOWN, load_data
from ddpm_app.images.sets import Images, Progress
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.studio import Studio


def evaluate(studio: Studio, plan: Plan) -> Iterator[Progress | Measurement | Refusal]:
    """Measure all of plan.metrics. Closing the generator stops at the next step of the network; finished batches are stored and used again.

    Raises ValueError for an unknown checkpoint, images that cannot be read, a model that gives NaN."""
    checkpoint = studio.checkpoint(plan.request.checkpoint) if plan.request.checkpoint or not plan.images else None
    against_data = plan.against.partition(":")[0]
    data_name = checkpoint.config.data if checkpoint else against_data if against_data in KNOWN else ""
    if plan.pictures:
        if plan.images:
            channels = checkpoint.config.network.in_channels if checkpoint else 1 if data_name == "mnist" else 0
            sets = [load_images(plan.images, channels, checkpoint.config.classes if checkpoint else KNOWN.get(data_name, ()))]
        else:
            sets = []
            for k, request in enumerate(sample_requests(plan)):
                what = f"sampling, set {k + 1} of {plan.seeds}" if plan.seeds > 1 else "sampling"
                sets.append((yield from sampled(studio, request, what)))
        yield from _pictures(studio, plan, checkpoint, data_name, sets)
    for metric in (m for m in plan.metrics if m in BITS):
        try:
            if checkpoint is None:
                raise ValueError("bits per dimension need a checkpoint")
            network = checkpoint.config.network
            data = reference_of(plan.bits_against or plan.against, data_name, network.image_size, network.in_channels, "test")
            yield from measure_bits(studio, checkpoint, metric, data.data, data.part, plan)
        except ValueError as error:
            yield Refusal(metric, str(error))


def _pictures(studio: Studio, plan: Plan, checkpoint: Checkpoint | None, data_name: str, sets: list[tuple[Images, Tensor]]):
    """Measure the metrics of images, one feature network after the other. Each network reads each set of images once."""
    n, shape = sets[0][0].n, sets[0][0].shape
    subject = Subject(data_name, checkpoint.config.classes if checkpoint else KNOWN.get(data_name, ()))
    reference = None
    try:
        reference = reference_of(plan.against, data_name, shape[1], shape[0])
        reference_shape = tuple(reference.data.images.shape[1:])
        if reference_shape != shape:
            raise ValueError(
                f"the reference {reference.name} has images {reference_shape}; those to measure are {shape} (channels, height, width)"
            )
        subject.reference = reference.data
        if (reference.name, reference.part) == (data_name, "train"):
            subject.train = reference.data
    except ValueError as error:
        subject.no_reference = str(error)
    if data_name in KNOWN:  # the numbers of real images are optional
        try:
            real = load_data(data_name, "test")
            subject.real = real if tuple(real.images.shape[1:]) == shape else None
        except ValueError:
            pass
    how = sampling_protocol(studio, plan, checkpoint, n) | {"software": software(), "commit": commit()}
    refused = set()
    for metric, kind in image_metrics.wanted(plan.pictures, plan.features or shipped_features(data_name)):
        try:
            extractor = subject.network(kind, lambda kind: build(kind, plan, data_name, studio.device)) if kind else None
            rows = []
            for k, (images, labels) in enumerate(sets):
                rows.append((yield from image_metrics.measure(subject, metric, extractor, images, labels, f"set {k + 1}")))
            for v in combined(rows):
                protocol = how | protocol_of(v.name, extractor, reference, data_name, n)
                yield Measurement(published_name(v.name, extractor, reference, data_name, n), v.value, v.error, v.detail, protocol)
        except ValueError as error:
            if (metric, str(error)) not in refused:  # several networks may fail for one reason
                refused.add((metric, str(error)))
                yield Refusal(metric, str(error))


def neighbour_pairs(studio: Studio, plan: Plan, measured: Measurement, most: int = 10) -> list[tuple[Tensor, Tensor, float]]:
    """(sample, its nearest training image, both uint8 (C, H, W), distance) of a closer-than-real measurement, closest first."""
    checkpoint = studio.checkpoint(plan.request.checkpoint) if plan.request.checkpoint else None
    data_name = checkpoint.config.data if checkpoint else plan.against.partition(":")[0]
    images = load_images(plan.images, 1 if data_name == "mnist" else 0)[0] if plan.images else samples_of(studio, plan.request)
    train = load_data(data_name, "train").images
    return [(images.part(i, i + 1)[0], train[j], d) for i, j, d in measured.detail["closest"][:most]]


def shipped_features(data_name: str) -> tuple[str, ...]:
    """The feature networks that need no download. The CLIP that ships was trained on CIFAR-10 only."""
    return ("classifier", "clip") if data_name == "cifar10" else ("classifier",)


def build(kind: str, plan: Plan, data_name: str, device: torch.device) -> Extractor:
    """The feature network of a kind. Raises ValueError if it is not on this machine and cannot be downloaded."""
    if kind == "classifier":
        path = Path(plan.classifier) if plan.classifier else SHIPPED / "classifiers" / (data_name or "-")
        if not plan.classifier and not (path / "classifier.json").is_file():
            raise ValueError(f"there is no classifier for {data_name or 'these images'} here; train/train_classifier.py makes one")
        return features.classifier_features(classifier.load_classifier(path, device))
    if kind == "clip":
        from ddpm_app.classifiers.clip import load_clip

        if plan.clip == "shipped" and data_name != "cifar10":
            raise ValueError(
                f"the CLIP that ships was trained on CIFAR-10 only, not on {data_name or 'these images'}; name another as MODEL:PRETRAINED"
            )
        return features.clip_features(load_clip(plan.clip, device))
    return features.inception_features(plan.inception, device)


def combined(sets: list[list[Value]]) -> list[Value]:
    """The values of one set, or the means over several sets with the standard deviation over sets as the error.

    sets: one list of values for each set, all with the same names."""
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
    """The part of the protocol that says how the n images were made."""
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
    return rows | {"seed": r.seed, "seeds": plan.seeds, "precision": precision_of(studio, checkpoint), "device": studio.device.type}


# -- bits per dimension ---------------------------------------------------------------------------------------------------------
