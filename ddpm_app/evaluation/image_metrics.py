"""The metrics of images: distances, classifier, CLIP, nearest neighbours. All use features that are computed once."""

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
DISTANCES = ("fid", "kid", "is", "prc")  # measured with each chosen feature network
MOST_NEIGHBOURS = 2000  # at most so many samples, and real test images, are compared with the training images
SHOWN = 24  # of these, listed with the closest first
BELOW_ZERO = "an extrapolated distance below zero means that the samples are too few for so small a distance; take more"
REAL_N = 10_000  # at most so many real test images are measured, too


class Value(NamedTuple):
    """A number.

    name:    FD, KD, IS, precision, ... without the network's name
    value:   the number
    error:   its standard error, NaN where unknown
    detail:  its parts, plain JSON
    """

    name: str
    value: float
    error: float
    detail: dict


@dataclass
class Subject:
    """What the metrics of one evaluation share, with its feature networks and features.

    data_name:     the data set of the model, "" if unknown
    classes:       names of the model's classes
    reference:     images to measure against, or None
    no_reference:  why there is no reference
    real:          real test images, measured for comparison, or None
    train:         the training split of data_name, if it has been read
    """

    data_name: str
    classes: tuple[str, ...]
    reference: ImageData | None = None
    no_reference: str = "there is no reference"
    real: ImageData | None = None
    train: ImageData | None = None
    _networks: dict = field(default_factory=dict)
    _features: dict = field(default_factory=dict)

    def network(self, kind: str, build: Callable[[str], Extractor]) -> Extractor:
        """The network of a kind, built once. Raises the ValueError of a failed build again."""
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
        """Features of the reference. Raises ValueError if there is none."""
        if self.reference is None:
            raise ValueError(self.no_reference)
        return (yield from self.features(extractor, Images.from_tensor(self.reference.images), "the reference"))

    def training(self) -> ImageData:
        """The training split of the model's data set, read once."""
        if self.train is None:
            self.train = load_data(self.data_name, "train")
        return self.train

    def real_features(self, extractor: Extractor) -> Iterator[Progress]:
        """Features of at most REAL_N real test images; None if there are none."""
        if self.real is None:
            return None
        return (yield from self.features(extractor, Images.from_tensor(self.real.images[:REAL_N]), "real test images"))


def wanted(metrics: tuple[str, ...], kinds: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """(metric, kind of feature network or None) in the order of computation, which uses one network after the other."""
    pairs: list[tuple[str, str | None]] = []
    for metric in metrics:
        if metric in DISTANCES:
            able = [k for k in kinds if metric != "is" or k != "clip"]  # an inception score needs class probabilities
            pairs += [(metric, kind) for kind in able or kinds]
        elif metric == "neighbours":
            pairs += [(metric, None), (metric, kinds[0])]
        else:
            pairs.append((metric, metric))
    order = [None, *kinds, "classifier", "clip"]
    return sorted(pairs, key=lambda p: (order.index(p[1]), PICTURE_METRICS.index(p[0])))


def measure(subject: Subject, metric: str, extractor: Extractor | None, images: Images, labels: Tensor, what: str) -> Iterator[Progress]:
    """Yield Progress, return the Values of one metric on one set of images. Raises ValueError if it cannot be measured."""
    if metric == "neighbours":
        return (yield from _neighbours(subject, extractor, images, what))
    features = yield from subject.features(extractor, images, what)
    if metric in ("classifier", "clip"):
        real_features = yield from subject.real_features(extractor)
        run = _reading if metric == "classifier" else _clip
        return run(subject, extractor, features, labels, real_features)
    if metric == "is":
        return _score(extractor, features)
    if metric == "fid":
        distances.check_rank(features[extractor.layer])  # before the reference is read
    reference = yield from subject.against(extractor)
    if metric == "fid":
        distances.check_rank(reference[extractor.layer], "reference images")
        real_features = (yield from subject.real_features(extractor)) if extractor.kind != "inception" else None
        real = real_features[extractor.layer][balanced(subject.real.labels[:REAL_N], images.n)] if real_features is not None else None
        return _frechet(extractor, features, reference, real, images.n)
    return (_kernel if metric == "kid" else _precision)(extractor, features[extractor.layer], reference[extractor.layer])


def balanced(labels: Tensor, n: int) -> Tensor:
    """Indices of n images (all if there are fewer): the first image of each class, then the second of each class, ..."""
    rank = torch.empty_like(labels)
    for k in labels.unique():
        of_class = labels == k
        rank[of_class] = torch.arange(int(of_class.sum()))
    return rank.argsort(stable=True)[:n]


def _frechet(extractor: Extractor, features: dict, reference: dict, real: Tensor | None, n: int) -> list[Value]:
    samples, reference_stats = features[extractor.layer], stats(reference, extractor)
    detail: dict = {}
    if real is not None and len(real) > real.shape[1]:
        detail |= {"real test images": distances.frechet_distance(distances.statistics(real), reference_stats), "real n": len(real)}
    rows = [Value("FD", distances.frechet_distance(stats(features, extractor), reference_stats), math.nan, detail)]
    if n < 50_000:
        try:
            limit = distances.extrapolated(samples, reference_stats)
            note = {"note": BELOW_ZERO} if limit.value < 0 else {}
            rows.append(Value("FD-infinity", limit.value, limit.error, {"points": [list(p) for p in limit.points], **note}))
        except ValueError as error:
            detail["extrapolation"] = str(error)
    return rows


def _kernel(extractor: Extractor, samples: Tensor, reference: Tensor) -> list[Value]:
    subsets = distances.KERNEL_SUBSETS if extractor.kind == "inception" else 20  # of 1000; more do not improve the estimate
    mean, deviation, size = distances.kernel_distance(samples, reference, subsets)
    error = deviation * (size / min(len(samples), len(reference))) ** 0.5  # subsets overlap: more of them do not reduce the error
    return [Value("KD", mean, error, {"subsets": subsets, "subset size": size, "deviation of a subset": deviation})]


def _score(extractor: Extractor, features: dict) -> list[Value]:
    logits = next((features[layer] for layer in ("logits", "logits_unbiased") if layer in features), None)
    if logits is None:
        raise ValueError(f"an inception score needs class probabilities, which {extractor.about} does not give")
    mean, deviation = distances.inception_score(logits)
    return [Value("IS", mean, deviation / 10**0.5, {"splits": 10, "deviation of a split": deviation})]


def _precision(extractor: Extractor, samples: Tensor, reference: Tensor) -> list[Value]:
    count = min(len(samples), len(reference))  # the same number of both, spread over the reference
    index = torch.linspace(0, len(reference) - 1, count).round().long()
    precision, recall = distances.precision_recall(samples, reference[index])
    detail = {"neighbours": distances.NEIGHBOURHOOD, "reference images": count}
    return [Value("precision", precision, math.nan, detail), Value("recall", recall, math.nan, detail)]


def _reading(subject: Subject, extractor: Extractor, features: dict, labels: Tensor, real_features: dict | None) -> list[Value]:
    report = classifier_agreement(features["logits"].softmax(1), labels)
    if subject.classes and len(report.class_counts) != len(subject.classes):
        raise ValueError(f"the {extractor.about} has {len(report.class_counts)} classes, the model {len(subject.classes)}")
    real = None
    if real_features is not None:
        real = classifier_agreement(real_features["logits"].softmax(1), subject.real.labels[:REAL_N])
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


def _clip(subject: Subject, extractor: Extractor, features: dict, labels: Tensor, real_features: dict | None) -> list[Value]:
    from ddpm_app.classifiers.clip import load_clip
    from ddpm_app.classifiers.clip_scores import PUBLISHED_TOP1, class_prompts, score

    if not subject.classes:
        raise ValueError("similarities need class names; these images have none")
    clip = load_clip(extractor.source, extractor.device)
    prompts = class_prompts(subject.classes)
    text = clip.text(prompts)
    scores = score(features[extractor.layer], text, labels)
    real = score(real_features[extractor.layer], text, subject.real.labels[:REAL_N]) if real_features is not None else None
    n = len(scores.top1)
    detail = {"prompts": prompts, "real test images": real.average_top1 if real else None}
    if extractor.source.startswith("ViT-B-32:"):
        detail["published, 50 epochs of CIFAR-10"] = PUBLISHED_TOP1
    rows = [Value("clip-top1", scores.average_top1, float(scores.top1.std() / n**0.5), detail)]
    if scores.matching is not None:
        error = math.sqrt(scores.matching * (1 - scores.matching) / scores.judged)
        matching_detail = {"by class": list(scores.by_class), "real test images": real.matching if real else None}
        rows.append(Value("clip-matching", scores.matching, error, matching_detail))
        rows.append(Value("clip-intended", scores.intended, math.nan, {"real test images": real.intended if real else None}))
    return rows


def _neighbours(subject: Subject, extractor: Extractor | None, images: Images, what: str) -> Iterator[Progress]:
    """The nearest training images, in pixels (extractor None) or features, and the share that is closer than real test images."""
    if subject.data_name not in KNOWN or subject.real is None:
        raise ValueError("the search for copies needs the training and the test split of MNIST or CIFAR-10, of the images' size")
    train = subject.training().images
    few, real = images.head(MOST_NEIGHBOURS), subject.real.images[:MOST_NEIGHBOURS]
    queries, pool, real_features = few.all(), train, real
    if extractor is not None:
        queries = (yield from subject.features(extractor, images, what))[extractor.layer][:MOST_NEIGHBOURS]
        pool = (yield from subject.features(extractor, Images.from_tensor(train), "the training split"))[extractor.layer]
        real_features = (yield from subject.real_features(extractor))[extractor.layer][:MOST_NEIGHBOURS]
    space = "pixels" if extractor is None else extractor.key
    yield Progress(f"nearest training images in {space}", 0, len(queries))
    near, index = distances.nearest(queries, pool)
    yield Progress(f"nearest training images in {space}", len(queries), len(queries))
    real_near = yield from _real_near(f"{space}-{extractor.digest if extractor else ''}", real_features, pool, Images.from_tensor(train))
    share, threshold = distances.closer_than_real(near[:, 0], real_near)
    order = near[:, 0].argsort()[:SHOWN]
    detail = {
        "expected": 0.01,
        "threshold": threshold,
        "median": float(near.median()),
        "median of real test images": float(real_near.median()),
        "copies": int((near[:, 0] == 0).sum()),
        "n": len(queries),
        "closest": [[int(i), int(index[i, 0]), round(float(near[i, 0]), 4)] for i in order],
    }
    name = "closer-than-real" if extractor is not None else "closer-than-real-pixels"
    return [Value(name, share, math.sqrt(max(share, 1 / len(queries)) / len(queries)), detail)]


def _real_near(space: str, real_features: Tensor, pool: Tensor, train: Images) -> Iterator[Progress]:
    """Distances of real test images to their nearest training images, cached for each data set and space."""
    key = hashlib.sha256(
        f"{space} {train.digest()} {Images.from_tensor(real_features).digest() if real_features.ndim == 4 else len(real_features)}".encode()
    ).hexdigest()
    file = cache_dir("evaluation") / "features" / f"{key[:32]}.safetensors"
    stored = load_cached(file)
    if set(stored) == {"nearest"} and len(stored["nearest"]) == len(real_features):
        return stored["nearest"]
    yield Progress("nearest training images of real test images", 0, len(real_features))
    near = distances.nearest(real_features, pool)[0][:, 0].contiguous()
    save_cached(file, {"nearest": near})
    return near
