"""The metrics that look at pictures, each from features that are computed once: distances, readings, nearest neighbours."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_app.classifiers.metrics import BINS, classifier_agreement
from ddpm_app.evaluation import distances
from ddpm_app.evaluation.cache import load_cached, save_cached
from ddpm_app.evaluation.features import Extractor, features_of, stats
from ddpm_app.images.datasets import KNOWN, ImageData, load_data
from ddpm_app.images.sets import Images, Progress
from ddpm_app.paths import cache_dir

PICTURE_METRICS = ("fid", "kid", "is", "prc", "classifier", "clip", "neighbours")
DISTANCES = ("fid", "kid", "is", "prc")  # measured in every feature network asked for
MOST_NEIGHBOURS = 2000  # samples, and real test images, whose nearest training images are looked for
SHOWN = 24  # of them that are listed, closest first
BELOW_ZERO = "an extrapolated distance below zero is one too small for so few samples to show; take more"
REAL_N = 10_000  # real test images that are read beside the generated ones


class Value(NamedTuple):
    """name: FD, KD, IS, precision, ... without the network's; value; error: NaN where unknown; detail: parts, plain JSON."""

    name: str
    value: float
    error: float
    detail: dict


@dataclass
class Subject:
    """What all metrics share. own: the data set the model learnt. reference, real: images to measure against and to show beside, or
    None; no_reference: why there is none; train: own's training split where it has been read already. Features and networks are kept
    for the time of one evaluation."""

    own: str
    classes: tuple[str, ...]
    reference: ImageData | None = None
    no_reference: str = "there is no reference"
    real: ImageData | None = None
    train: ImageData | None = None
    _networks: dict = field(default_factory=dict)
    _features: dict = field(default_factory=dict)

    def network(self, kind: str, build: Callable[[str], Extractor]) -> Extractor:
        """Built once; what failed once fails again at once."""
        if kind not in self._networks:
            try:
                self._networks[kind] = build(kind)
            except ValueError as error:
                self._networks[kind] = error
        if isinstance(self._networks[kind], ValueError):
            raise self._networks[kind]
        return self._networks[kind]

    def features(self, extractor: Extractor, images: Images, what: str) -> Iterator[Progress]:
        key = (extractor.key, what)
        if key not in self._features:
            self._features[key] = yield from features_of(extractor, images, what)
        return self._features[key]

    def against(self, extractor: Extractor) -> Iterator[Progress]:
        """Features of the reference. Raises ValueError where there is none."""
        if self.reference is None:
            raise ValueError(self.no_reference)
        return (yield from self.features(extractor, Images.from_tensor(self.reference.images), "the reference"))

    def training(self) -> ImageData:
        """The training split of the model's own data, read once."""
        if self.train is None:
            self.train = load_data(self.own, "train")
        return self.train

    def beside(self, extractor: Extractor, n: int = REAL_N) -> Iterator[Progress]:
        """Features of real test images, n at most; None where there are none."""
        if self.real is None:
            return None
        return (yield from self.features(extractor, Images.from_tensor(self.real.images[:REAL_N]), "real test images"))


def wanted(metrics: tuple[str, ...], kinds: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """(metric, feature network or None) in the order of computation: network by network."""
    pairs: list[tuple[str, str | None]] = []
    for metric in metrics:
        if metric in DISTANCES:
            able = [k for k in kinds if metric != "is" or k != "clip"]  # a score needs class probabilities
            pairs += [(metric, kind) for kind in able or kinds]
        elif metric == "neighbours":
            pairs += [(metric, None), (metric, kinds[0])]
        else:
            pairs.append((metric, metric))
    order = [None, *kinds, "classifier", "clip"]
    return sorted(pairs, key=lambda p: (order.index(p[1]), PICTURE_METRICS.index(p[0])))


def measure(subject: Subject, metric: str, extractor: Extractor | None, images: Images, labels: Tensor, what: str) -> Iterator[Progress]:
    """Yield Progress, return the Values of one metric on one set of images. Raises ValueError, one sentence, where it cannot be had."""
    if metric == "neighbours":
        return (yield from _neighbours(subject, extractor, images, what))
    found = yield from subject.features(extractor, images, what)
    if metric in ("classifier", "clip"):
        beside = yield from subject.beside(extractor)
        run = _reading if metric == "classifier" else _clip
        return run(subject, extractor, found, labels, beside)
    if metric == "is":
        return _score(extractor, found)
    if metric == "fid":
        distances.check_rank(found[extractor.layer])  # before the reference is looked at
    reference = yield from subject.against(extractor)
    if metric == "fid":
        distances.check_rank(reference[extractor.layer], "reference images")
        beside = (yield from subject.beside(extractor)) if extractor.kind != "inception" else None
        real = beside[extractor.layer][balanced(subject.real.labels[:REAL_N], images.n)] if beside is not None else None
        return _frechet(extractor, found, reference, real, images.n)
    return (_kernel if metric == "kid" else _precision)(extractor, found[extractor.layer], reference[extractor.layer])


def balanced(labels: Tensor, n: int) -> Tensor:
    """Indices of n images, or of all where there are fewer: the first of each class, then the second of each, ..."""
    turn = torch.empty_like(labels)
    for k in labels.unique():
        own = labels == k
        turn[own] = torch.arange(int(own.sum()))
    return turn.argsort(stable=True)[:n]


def _frechet(extractor: Extractor, found: dict, reference: dict, real: Tensor | None, n: int) -> list[Value]:
    mine, theirs = found[extractor.layer], stats(reference, extractor)
    detail: dict = {}
    if real is not None and len(real) > real.shape[1]:
        detail |= {"real test images": distances.frechet_distance(distances.statistics(real), theirs), "real n": len(real)}
    rows = [Value("FD", distances.frechet_distance(stats(found, extractor), theirs), math.nan, detail)]
    if n < 50_000:
        try:
            more = distances.extrapolated(mine, theirs)
            note = {"note": BELOW_ZERO} if more.value < 0 else {}
            rows.append(Value("FD-infinity", more.value, more.error, {"points": [list(p) for p in more.points], **note}))
        except ValueError as error:
            detail["extrapolation"] = str(error)
    return rows


def _kernel(extractor: Extractor, mine: Tensor, reference: Tensor) -> list[Value]:
    subsets = distances.KERNEL_SUBSETS if extractor.kind == "inception" else 20  # of 1000: more cost seconds and tell no more
    mean, deviation, size = distances.kernel_distance(mine, reference, subsets)
    error = deviation * (size / min(len(mine), len(reference))) ** 0.5  # subsets overlap: more of them tell no more
    return [Value("KD", mean, error, {"subsets": subsets, "subset size": size, "deviation of a subset": deviation})]


def _score(extractor: Extractor, found: dict) -> list[Value]:
    logits = next((found[layer] for layer in ("logits", "logits_unbiased") if layer in found), None)
    if logits is None:
        raise ValueError(f"an inception score needs class probabilities, which {extractor.about} does not give")
    mean, deviation = distances.inception_score(logits)
    return [Value("IS", mean, deviation / 10**0.5, {"splits": 10, "deviation of a split": deviation})]


def _precision(extractor: Extractor, mine: Tensor, reference: Tensor) -> list[Value]:
    count = min(len(mine), len(reference))  # as many of either, spread over the reference
    index = torch.linspace(0, len(reference) - 1, count).round().long()
    precision, recall = distances.precision_recall(mine, reference[index])
    detail = {"neighbours": distances.NEIGHBOURHOOD, "reference images": count}
    return [Value("precision", precision, math.nan, detail), Value("recall", recall, math.nan, detail)]


def _reading(subject: Subject, extractor: Extractor, found: dict, labels: Tensor, beside: dict | None) -> list[Value]:
    report = classifier_agreement(found["logits"].softmax(1), labels)
    if subject.classes and len(report.class_counts) != len(subject.classes):
        raise ValueError(f"the {extractor.about} knows {len(report.class_counts)} classes, the model {len(subject.classes)}")
    real = None
    if beside is not None:
        real = classifier_agreement(beside["logits"].softmax(1), subject.real.labels[:REAL_N])
    detail = {"classes": list(subject.classes), "generated": report.to_json(), "real": real.to_json() if real else None}
    detail["real test images"] = real.confidence if real else None
    rows = [Value("confidence", report.confidence, report.confidence_error, detail)]
    chance = {"by chance": report.expected_distance, "real test images": real.distance_from_uniform if real else None}
    rows.append(Value("distance-from-uniform", report.distance_from_uniform, math.nan, chance))
    if report.agreement is not None:
        error = math.sqrt(report.agreement * (1 - report.agreement) / report.labelled)
        agreement = {"95 %": list(report.agreement_interval), "n": report.labelled, "real test images": real.agreement if real else None}
        rows.insert(0, Value("agreement", report.agreement, error, agreement))
        calibration = {"bins": BINS, "real test images": real.calibration_error if real else None}
        rows.append(Value("calibration-error", report.calibration_error, math.nan, calibration))
    return rows


def _clip(subject: Subject, extractor: Extractor, found: dict, labels: Tensor, beside: dict | None) -> list[Value]:
    from ddpm_app.classifiers.clip import load_clip
    from ddpm_app.classifiers.clip_scores import PUBLISHED_TOP1, class_prompts, score

    if not subject.classes:
        raise ValueError("similarities need class names, and these images have none")
    clip = load_clip(extractor.source, extractor.device)
    prompts = class_prompts(subject.classes)
    text = clip.text(prompts)
    got = score(found[extractor.layer], text, labels)
    real = score(beside[extractor.layer], text, subject.real.labels[:REAL_N]) if beside is not None else None
    n = len(got.top1)
    detail = {"prompts": prompts, "real test images": real.average_top1 if real else None}
    if extractor.source.startswith("ViT-B-32:"):
        detail["published, 50 epochs of CIFAR-10"] = PUBLISHED_TOP1
    rows = [Value("clip-top1", got.average_top1, float(got.top1.std() / n**0.5), detail)]
    if got.matching is not None:
        error = math.sqrt(got.matching * (1 - got.matching) / got.judged)
        beyond = {"by class": list(got.by_class), "real test images": real.matching if real else None}
        rows.append(Value("clip-matching", got.matching, error, beyond))
        rows.append(Value("clip-intended", got.intended, math.nan, {"real test images": real.intended if real else None}))
    return rows


def _neighbours(subject: Subject, extractor: Extractor | None, images: Images, what: str) -> Iterator[Progress]:
    """Nearest training images in pixels (extractor None) or features, and the share closer than real test images are."""
    if subject.own not in KNOWN or subject.real is None:
        raise ValueError("the search for copies needs the training and the test split of MNIST or CIFAR-10, of the images' size")
    train = subject.training().images
    few, real = images.head(MOST_NEIGHBOURS), subject.real.images[:MOST_NEIGHBOURS]
    queries, pool, beside = few.all(), train, real
    if extractor is not None:
        queries = (yield from subject.features(extractor, images, what))[extractor.layer][:MOST_NEIGHBOURS]
        pool = (yield from subject.features(extractor, Images.from_tensor(train), "the training split"))[extractor.layer]
        beside = (yield from subject.beside(extractor))[extractor.layer][:MOST_NEIGHBOURS]
    space = "pixels" if extractor is None else extractor.key
    yield Progress(f"nearest training images in {space}", 0, len(queries))
    near, index = distances.nearest(queries, pool)
    yield Progress(f"nearest training images in {space}", len(queries), len(queries))
    usual = yield from _usual(f"{space}-{extractor.digest if extractor else ''}", beside, pool, Images.from_tensor(train))
    share, threshold = distances.closer_than_real(near[:, 0], usual)
    order = near[:, 0].argsort()[:SHOWN]
    detail = {
        "expected": 0.01,
        "threshold": threshold,
        "median": float(near.median()),
        "median of real test images": float(usual.median()),
        "copies": int((near[:, 0] == 0).sum()),
        "n": len(queries),
        "closest": [[int(i), int(index[i, 0]), round(float(near[i, 0]), 4)] for i in order],
    }
    name = "closer-than-real" if extractor is not None else "closer-than-real-pixels"
    return [Value(name, share, math.sqrt(max(share, 1 / len(queries)) / len(queries)), detail)]


def _usual(space: str, beside: Tensor, pool: Tensor, train: Images) -> Iterator[Progress]:
    """Distances of real test images to their nearest training images, once per data set and space."""
    key = hashlib.sha256(
        f"{space} {train.digest()} {Images.from_tensor(beside).digest() if beside.ndim == 4 else len(beside)}".encode()
    ).hexdigest()
    file = cache_dir("evaluation") / "features" / f"{key[:32]}.safetensors"
    found = load_cached(file)
    if set(found) == {"nearest"} and len(found["nearest"]) == len(beside):
        return found["nearest"]
    yield Progress("nearest training images of real test images", 0, len(beside))
    near = distances.nearest(beside, pool)[0][:, 0].contiguous()
    save_cached(file, {"nearest": near})
    return near
