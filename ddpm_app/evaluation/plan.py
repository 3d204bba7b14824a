"""What to measure: the Plan, its metrics and its sample requests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ddpm_app.evaluation import features
from ddpm_app.evaluation.image_metrics import PICTURE_METRICS
from ddpm_app.flags import check, check_choice, setting
from ddpm_app.studio.request import Request

BITS = ("bpd-bound", "bpd-flow")
METRICS = (*PICTURE_METRICS, *BITS)
ALIASES = {"bpd": BITS}


@dataclass(frozen=True)
class Plan:
    """What to measure.

    request:       the samples, n for each set; its checkpoint may be "" if images are given
    metrics:       of METRICS
    features:      of features.KINDS: the feature networks of distances; () takes those that ship
    against:       the reference, see protocol.reference_of; "" is the training split, for bits the test split
    seeds:         independent sets of n samples, set k with seeds from seed + k n on; their spread is the error
    images:        an .npz or a folder to measure instead of samples
    clip:          shipped, or MODEL:PRETRAINED of open_clip
    classifier:    a directory; "" is the classifier that ships
    inception:     weights, a file or a URL; "" is torch-fidelity's URL
    bits_n:        test images for bits per dimension
    bits_against:  the reference of the bits alone, if it differs
    draws:         times t for each image of the bound
    steps:         Heun steps of the flow
    """

    request: Request
    metrics: tuple[str, ...] = ("fid", "classifier")
    features: tuple[str, ...] = ()
    against: str = setting("", "train, test, mnist[:test], cifar10[:test], FILE.npz or a folder (default train; for bits test)")
    seeds: int = setting(1, "independent sets of n samples; three give a spread", low=1, high=20)
    images: str = setting("", "FILE.npz or a folder: measure these instead of sampling")
    clip: str = setting("shipped", "shipped, or MODEL:PRETRAINED of open_clip")
    classifier: str = setting("", "directory of a classifier (default: checkpoints/classifiers/DATA)")
    inception: str = setting("", "torch-fidelity's Inception weights, a file or a URL (default: downloaded)")
    bits_n: int = 128
    bits_against: str = ""
    draws: int = setting(20, "times t per image of the bound; 999 takes all", low=1)
    steps: int = setting(50, "Heun steps of the flow", low=1)

    def __post_init__(self):
        for kind, names, values in (("metric", METRICS, self.metrics), ("features", features.KINDS, self.features)):
            for value in values:
                check_choice(kind, value, names)
        if not self.metrics:
            raise ValueError(f"no metric is named; {', '.join(METRICS)} are accepted")
        check(self)
        if self.seeds * self.request.n > 10**6:
            raise ValueError(f"{self.seeds} sets of {self.request.n} samples are asked for; at most a million samples are accepted")
        if self.pictures and not self.images and self.request.n < 2:
            raise ValueError(f"n is {self.request.n}; at least 2 images are needed")

    @property
    def pictures(self) -> tuple[str, ...]:
        return tuple(m for m in self.metrics if m in PICTURE_METRICS)


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names separated by commas; bpd is both of BITS. Each is given once. Raises ValueError for an unknown name, with the nearest known."""
    names = [n.strip() for n in text.split(",") if n.strip()]
    for n in names:
        check_choice("metric", n, [*METRICS, *ALIASES])
    return tuple(dict.fromkeys(m for n in names for m in ALIASES.get(n, (n,))))


def sample_requests(plan: Plan) -> list[Request]:
    """The request of each set of samples; no two sets have a seed in common."""
    return [dataclasses.replace(plan.request, seed=plan.request.seed + k * plan.request.n) for k in range(plan.seeds)]
