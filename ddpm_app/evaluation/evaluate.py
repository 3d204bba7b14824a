"""The engine: images -> features -> statistics -> distances, each number with its protocol.

evaluate() is a generator: the watcher prints, plots, stops. What cannot be measured becomes a Refusal, one sentence; the other
metrics are still computed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.classifiers import classifier
from ddpm_app.diffusion import likelihood
from ddpm_app.evaluation import features, image_metrics
from ddpm_app.evaluation.features import Extractor, Images, Progress
from ddpm_app.evaluation.image_metrics import PICTURE_METRICS, Subject, Value
from ddpm_app.evaluation.protocol import Measurement, Refusal, commit, named, protocol_of, reference_of, software
from ddpm_app.evaluation.samples import given, sampled, samples_of, weights_digest
from ddpm_app.images.datasets import KNOWN, ImageData, load_data
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.request import Request, known
from ddpm_app.studio.studio import Studio

BITS = ("bpd-bound", "bpd-flow")
METRICS = (*PICTURE_METRICS, *BITS)
ALIASES = {"bpd": BITS}
HALVED = 4  # images whose flow is integrated once more with half the steps


@dataclass(frozen=True)
class Plan:
    """What to measure.

    request:  the samples, n of them a seed; its checkpoint may be "" where images are given
    metrics:  of METRICS; features: of features.KINDS, the networks that distances are measured in (default: those that ship)
    against:  see protocols.reference_of; "" is the training split, for bits the test split; bits_against: of the bits alone, where given
    seeds:    independent sets of n samples, set k from seed + k n; their spread is the error
    images:   an .npz or a folder to judge instead of sampling
    clip, classifier, inception: which CLIP (see clip_labels), classifier (a directory) and Inception weights (a file or a URL)
    bits_n, draws, steps: of the bits per dimension, see measure_bits
    """

    request: Request
    metrics: tuple[str, ...] = ("fid", "classifier")
    features: tuple[str, ...] = ()
    against: str = ""
    seeds: int = 1
    images: str = ""
    clip: str = "shipped"
    classifier: str = ""
    inception: str = ""
    bits_n: int = 128
    bits_against: str = ""
    draws: int = 20
    steps: int = 50

    def __post_init__(self):
        for kind, names, values in (("metric", METRICS, self.metrics), ("features", features.KINDS, self.features)):
            for value in values:
                known(kind, value, names)
        if not self.metrics:
            raise ValueError(f"no metric is asked for; known: {', '.join(METRICS)}")
        if not 1 <= self.seeds <= 20 or self.seeds * self.request.n > 10**6:
            raise ValueError(f"seeds is {self.seeds}; 1 to 20 sets, a million samples together, are accepted")
        if self.pictures and not self.images and self.request.n < 2:
            raise ValueError(f"n is {self.request.n}; at least 2 images are needed")
        if self.draws < 1 or self.steps < 1:
            raise ValueError("draws and steps are at least 1")

    @property
    def pictures(self) -> tuple[str, ...]:
        return tuple(m for m in self.metrics if m in PICTURE_METRICS)


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names separated by commas, without repetitions; bpd is both of BITS. Raises ValueError naming the nearest known one."""
    names = [n.strip() for n in text.split(",") if n.strip()]
    for n in names:
        known("metric", n, [*METRICS, *ALIASES])
    return tuple(dict.fromkeys(m for n in names for m in ALIASES.get(n, (n,))))


def sample_requests(plan: Plan) -> list[Request]:
    """One request a set of samples, each with seeds of its own."""
    return [dataclasses.replace(plan.request, seed=plan.request.seed + k * plan.request.n) for k in range(plan.seeds)]


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
    rows |= {k: v for k, v in r.changed().items() if k not in ("checkpoint", "n", "seed", "label", *rows)}
    return rows | {"seed": r.seed, "seeds": plan.seeds, "precision": _dtype(studio), "device": studio.device.type}


def _dtype(studio: Studio) -> str:
    return str(studio.dtype).removeprefix("torch.")


# -- bits per dimension ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure_bits(studio: Studio, checkpoint: Checkpoint, metric: str, data: ImageData, part: str, plan: Plan) -> Iterator:
    """Yield Progress, then the Measurement, of one of BITS on the first plan.bits_n images of data, each given its own class, unguided."""
    known("metric", metric, BITS)
    config, n, seed, draws, steps = checkpoint.config, plan.bits_n, plan.request.seed, plan.draws, plan.steps
    shape = (config.network.in_channels, config.network.image_size, config.network.image_size)
    if tuple(data.images.shape[1:]) != shape:
        raise ValueError(f"{data.name} has images {tuple(data.images.shape[1:])}; {checkpoint.name} makes {shape}")
    if not 2 <= n <= len(data):
        raise ValueError(f"n is {n}; {data.name} gives 2 to {len(data)} images")
    denoiser = studio.denoiser(checkpoint)
    conditional = config.network.num_classes > 0 and config.network.num_classes == len(data.classes)
    batch, labels = 32, data.labels[:n]
    position = 0

    def denoise(x, sigma):  # the likelihoods go through the images in order, batch by batch
        label = labels[position : position + len(x)].to(studio.device) if conditional else None
        return denoiser(x.to(studio.device), sigma, label).to(x.device)

    protocol = {"images": f"first {n} of {data.name} {part}".strip(), "n": n, "class": "given" if conditional else "none", "seed": seed}
    protocol |= {"checkpoint": checkpoint.name, "precision": _dtype(studio), "ema": config.ema, "images_seen": config.images_seen}
    protocol |= {"date": time.strftime("%Y-%m-%d"), "commit": commit()}
    parts = []
    for position in range(0, n, batch):  # noqa: B007 - read by denoise
        yield Progress(metric, position, n)
        chunk = data.images[position : min(position + batch, n)]
        if metric == "bpd-bound":
            parts.append((len(chunk), likelihood.variational_bound(denoise, chunk, denoiser.schedule, draws, seed + position, batch)))
        else:
            parts.append((len(chunk), likelihood.flow_likelihood(denoise, chunk, denoiser.schedule, steps, 2, seed + position, batch)))
    position, few = 0, data.images[: min(n, HALVED)]
    if metric == "bpd-flow":  # is the solver's step small enough? the same few images and probes, with all the steps and with half
        twice = []
        for m in (steps, steps // 2) if steps > 1 else ():
            yield Progress("bpd-flow with half the steps", len(twice), 2)
            twice.append(likelihood.flow_likelihood(denoise, few, denoiser.schedule, m, 2, seed, batch).bits)
    yield Progress(metric, n, n)
    if metric == "bpd-bound":
        protocol |= {"variance": "beta_t", "times per image": min(draws, denoiser.schedule.T - 1), "decoder": "discrete, sqrt(beta_1)"}
        names, value = ("L_T", "L_mid", "L_0"), "total"
        rows = zip(*(p.levels for _, p in parts))
        levels = [[*row[0][:2], sum(m * r[2] for (m, _), r in zip(parts, row)) / n] for row in rows]
    else:
        protocol |= {"solver": f"Heun, {steps} steps of ln sigma", "divergence": "Hutchinson, 2 Rademacher probes"}
        protocol |= {"decoder": "discrete, sqrt(beta_1), from x_1"}
        names, value = ("probe_error",), "bits"
    detail = {k: sum(m * getattr(p, k) for m, p in parts) / n for k in names}
    detail |= {"levels": levels} if metric == "bpd-bound" else {"change from half the steps": twice[0] - twice[1] if twice else None}
    error = math.sqrt(sum((m * p.standard_error) ** 2 for m, p in parts if m > 1)) / n
    bits = sum(m * getattr(p, value) for m, p in parts) / n
    if bits <= 0:  # no code is shorter than nothing
        cure = f"{steps} steps are too few for its solver; take more" if metric == "bpd-flow" else "the model gives numbers out of range"
        raise ValueError(f"{bits:.3f} bits/dim is below zero and so no likelihood: {cure}")
    yield Measurement(metric, bits, error, detail, protocol)
