"""Agreement of class-conditional samples with their labels, measured by an independent classifier, compared with real images.

The figures are
- the share of samples whose likeliest class is the requested label, with its 95 % Wilson interval,
- the mean of the highest probability,
- how often each class is predicted,
- the Frechet distance of the classifier's features to those of real test images (FD-classifier). It compares models that were measured
  with the same classifier and the same n. It is not an FID.

Half of the test split is the reference of the distance. Images of the other half are measured, too; no model can be expected to do
better than they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.measurements import Measurement
from ddpm_app.classifiers.classifier import Classifier, load_classifier
from ddpm_app.classifiers.metrics import classifier_agreement
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import clipped, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import sigma_grid
from ddpm_app.evaluation.distances import Stats, frechet_distance, statistics
from ddpm_app.evaluation.protocol import commit, precision_of
from ddpm_app.evaluation.samples import sampled
from ddpm_app.images.datasets import ImageData, load_data
from ddpm_app.images.pixels import to_uint8
from ddpm_app.images.sets import Progress
from ddpm_app.networks.device import describe
from ddpm_app.paths import SHIPPED
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio


@dataclass(frozen=True)
class AgreementPlan:
    """What to measure. Making one reads the classifier and the real images.

    checkpoint:  a model with classes
    classifier:  the network that classifies the images
    test:        the real images
    request:     the samples: request.n of them, the classes one after the other
    per_class:   samples, and at most as many real images, of each class
    reference:   at most this many real images are the distance's reference
    """

    checkpoint: Checkpoint
    classifier: Classifier
    test: ImageData
    request: Request
    per_class: int
    reference: int

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return torch.arange(len(self.checkpoint.config.classes)).repeat_interleave(self.per_class)


def agreement_plan(studio: Studio, request: Request, classifier: str = "", data: str = "", reference: int = 5000) -> AgreementPlan:
    """Make a plan. Reads the classifier and the real images.

    request:    request.n samples of each class of request.checkpoint
    classifier: its directory (default: the one that ships for the model's data)
    data:       real images: a named set (its test split), a folder or an .npz (default: the model's data)
    reference:  real images of the distance's reference, at most
    Raises ValueError for a model without classes, and if the classifier, the data and the model do not fit together."""
    checkpoint = studio.checkpoint(request.checkpoint)
    config = checkpoint.config
    if reference < 2:
        raise ValueError(f"reference is {reference}; at least 2 images are needed")
    if not config.network.num_classes:
        raise ValueError(f"{request.checkpoint} was trained without classes; agreement needs a class-conditional model")
    network = load_classifier(classifier or SHIPPED / "classifiers" / config.data, studio.device)
    test = load_data(data or config.data, "test", config.network.image_size)
    if (network.config.image_shape, len(network.config.classes)) != (config.network.image_shape, len(config.classes)):
        raise ValueError(f"the {network.config.data} classifier does not fit the images or classes of {request.checkpoint}")
    total = replace(request, n=request.n * len(config.classes))
    return AgreementPlan(checkpoint, network, test, total, request.n, reference)


def agreement_report(studio: Studio, plan: AgreementPlan) -> Iterator[Progress]:
    """Yield Progress while sampling; return {"checkpoint", "generated", "real", "protocol"}, plain JSON."""
    classifier, config, request = plan.classifier, plan.checkpoint.config, plan.request
    reference_images, real = split_test_images(plan.test, plan.per_class, plan.reference)
    reference = statistics(classifier.features(reference_images))
    images, labels = yield from sampled(studio, request, labels=plan.labels.numpy())
    accuracy = next((m["value"] for m in classifier.config.metrics if m.get("name") == "accuracy"), None)
    protocol = {
        "n_per_class": plan.per_class,
        "sampler": request.sampler,
        "evaluations": request.true_evaluations,
        "grid": SAMPLERS[request.sampler].grid if request.grid == "auto" else request.grid,
        "guidance": request.guidance,
        "seed": request.seed,
        "ema": config.ema,
        "images_seen": config.images_seen,
        "precision": precision_of(studio, plan.checkpoint),
        "device": describe(studio.device),
        "classifier": {"data": classifier.config.data, "accuracy": accuracy, "sha256": classifier.digest},
        "reference": f"{len(reference_images)} images of the {plan.test.name} test split (every second); "
        f"the real row is {len(real)} of the others",
        "commit": commit(),
    }
    return {
        "checkpoint": plan.checkpoint.name,
        "generated": agreement_figures(classifier, images.all(), labels, reference),
        "real": agreement_figures(classifier, real.images, real.labels, reference),
        "protocol": protocol,
    }


def agreement_figures(classifier: Classifier, images: Tensor, labels: Tensor, reference: Stats) -> dict:
    """The figures of uint8 (N, C, H, W) images with the requested labels (N,) int64, against features of real images."""
    probabilities, features = classifier.classify_with_features(images)
    report, names = classifier_agreement(probabilities, labels), classifier.config.classes
    return {
        "n": report.n,
        "agreement": report.agreement,
        "interval95": [round(v, 4) for v in report.agreement_interval],
        "agreement_by_class": {name: round(share, 4) for name, share in zip(names, report.agreement_by_class) if share is not None},
        "mean_max_confidence": round(report.confidence, 4),
        "read_as": dict(zip(names, report.class_counts)),
        "FD-classifier": round(frechet_distance(statistics(features), reference), 4),
    }


def few_evaluations(data: str, evaluations: tuple[int, ...] = (1, 2, 4), per_class: int = 20) -> Callable[[Denoiser], dict[str, float]]:
    """A function that measures a model tuned to few evaluations while it trains: denoiser -> {"agreement at 1": share, "FD-classifier at
    1": distance, "agreement at 2": ...}, with per_class images of each class, always the same seeds, and consistency sampling.

    data: the model's data set, which needs a classifier in checkpoints/classifiers. Raises ValueError without one. So few images give a
    larger FD-classifier than a judge's."""
    classifier = load_classifier(SHIPPED / "classifiers" / data)
    real, _ = split_test_images(load_data(data, "test"), per_class, 2000)
    reference = statistics(classifier.features(real))
    labels = torch.arange(len(classifier.config.classes)).repeat_interleave(per_class)

    def measure(denoiser: Denoiser) -> dict[str, float]:
        row, shape = {}, (len(labels), *classifier.config.image_shape)
        denoise = clipped(conditioned(denoiser, labels.to(denoiser.device)))
        for count in evaluations:
            sigmas = sigma_grid(denoiser.schedule, count)
            x, noise = start(range(len(labels)), shape, sigmas, denoiser.device)
            images = to_uint8(last(SAMPLERS["consistency"].steps(denoise, x, sigmas, noise))).cpu()
            figures = agreement_figures(classifier, images, labels, reference)
            row |= {f"{name} at {count}": figures[name] for name in ("agreement", "FD-classifier")}
        return row

    return measure


def split_test_images(test: ImageData, per_class: int, most: int) -> tuple[Tensor, ImageData]:
    """(reference images, real images to measure): from two halves of the test split that share no image.

    At most `most` reference images; of the other half `per_class` of each class, or as many as there are."""
    reference, rest = test.images[0::2][:most], test.subset(torch.arange(1, len(test), 2))
    index = torch.cat([(rest.labels == k).nonzero()[:per_class, 0] for k in range(len(test.classes))])
    return reference, rest.subset(index)


def agreement_measurements(report: dict) -> tuple[Measurement, Measurement]:
    """The report's agreement and FD-classifier, as they are stored with the model."""
    generated, real, n = report["generated"], report["real"], report["generated"]["n"]
    protocol = {"n": n} | report["protocol"]
    share = generated["agreement"]
    detail = {"95 %": generated["interval95"], "n": n, "real test images": real["agreement"], "real n": real["n"]}
    detail |= {"by class": generated["agreement_by_class"], "predicted": generated["read_as"]}
    detail |= {"mean confidence": generated["mean_max_confidence"]}
    distance = {"real test images": real["FD-classifier"], "real n": real["n"]}
    return (
        Measurement("agreement", share, math.sqrt(share * (1 - share) / n), detail, protocol),
        Measurement("FD-classifier", generated["FD-classifier"], math.nan, distance, protocol),
    )
