"""Trade-off curves: sweep guidance, evaluations or the sampler; distance against agreement or confidence, point by point."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from ddpm_app.checkpoints.measurements import Measurement
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.evaluation.evaluate import evaluate
from ddpm_app.evaluation.plan import Plan
from ddpm_app.evaluation.protocol import Refusal
from ddpm_app.evaluation.samples import samples_of
from ddpm_app.files import plain
from ddpm_app.flags import check_choice
from ddpm_app.images.sets import Images, Progress
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio

AXES: dict[str, tuple] = {
    "guidance": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0),
    "evaluations": (5, 8, 10, 15, 20, 30),
    "sampler": tuple(name for name, s in SAMPLERS.items() if not s.stochastic),  # ancestral sampling wants hundreds of evaluations
}
MOST_POINTS = 20


@dataclass(frozen=True)
class Sweep:
    """axis: one of AXES; values along it, () for the usual ones; kind: the feature network the distance is measured in."""

    axis: str
    values: tuple = ()
    kind: str = "classifier"

    def __post_init__(self):
        check_choice("axis", self.axis, AXES)
        if len(self.values) > MOST_POINTS:
            raise ValueError(f"{len(self.values)} values are given; at most {MOST_POINTS} are swept at once")
        if not self.values:
            object.__setattr__(self, "values", AXES[self.axis])


class Point(NamedTuple):
    """value: along the axis. distance (Frechet, called `name`), agreement, confidence: None where they could not be had, and `says`
    why. images: the samples; request: what made them; protocol: of the distance, else of the confidence."""

    value: float | int | str
    name: str
    distance: float | None
    agreement: float | None
    confidence: float | None
    says: str
    images: Images
    request: Request
    protocol: dict


def parse_sweep(text: str) -> Sweep:
    """ "guidance" or "guidance=1,2,4", "sampler=ddim,unipc". Raises ValueError."""
    axis, _, values = text.partition("=")
    check_choice("axis", axis.strip(), AXES)
    kind = type(AXES[axis.strip()][0])
    try:
        numbers = tuple(kind(v.strip()) for v in values.split(",") if v.strip())
    except ValueError:
        whole = "whole " if kind is int else ""
        raise ValueError(f"{values[:80]!r} are no values of {axis}; {whole}numbers separated by commas are accepted") from None
    return Sweep(axis.strip(), numbers)


def sweep(studio: Studio, plan: Plan, along: Sweep) -> Iterator[Progress | Point]:
    """Measure plan's samples at every value of an axis, each with the same seeds. Closing it stops at the next step; what was sampled
    is kept. plan.metrics is not looked at."""
    requests = [dataclasses.replace(plan.request, **{along.axis: value}) for value in along.values]  # all checked before the first begins
    for k, (value, request) in enumerate(zip(along.values, requests)):
        one = dataclasses.replace(plan, request=request, metrics=("fid", "classifier"), features=(along.kind,), seeds=1, images="")
        found: dict[str, Measurement] = {}
        says = []
        with closing(evaluate(studio, one)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield Progress(f"{along.axis} {value}, point {k + 1} of {len(requests)}: {event.what}", event.done, event.total)
                elif isinstance(event, Refusal):
                    says.append(event.says)
                else:
                    found[event.name] = event
        distance = next((m for name, m in found.items() if name.startswith(("FD-", "FID")) and not name.endswith("-infinity")), None)
        agreement, confidence = found.get("agreement"), found.get("confidence")
        told = distance or confidence
        yield Point(
            value,
            distance.name if distance else f"FD-{along.kind}",
            distance.value if distance else None,
            agreement.value if agreement else None,
            confidence.value if confidence else None,
            "; ".join(dict.fromkeys(says)),
            samples_of(studio, request),
            request,
            plain(told.protocol) if told else {},
        )
