"""What to measure: the Plan, its metrics and its sample requests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ddpm_app.evaluation import features
from ddpm_app.evaluation.image_metrics import PICTURE_METRICS
from ddpm_app.flags import check_choice
from ddpm_app.studio.request import Request

BITS = ("bpd-bound", "bpd-flow")


METRICS = (*PICTURE_METRICS, *BITS)


ALIASES = {"bpd": BITS}


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
                check_choice(kind, value, names)
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
        check_choice("metric", n, [*METRICS, *ALIASES])
    return tuple(dict.fromkeys(m for n in names for m in ALIASES.get(n, (n,))))


def sample_requests(plan: Plan) -> list[Request]:
    """One request a set of samples, each with seeds of its own."""
    return [dataclasses.replace(plan.request, seed=plan.request.seed + k * plan.request.n) for k in range(plan.seeds)]
