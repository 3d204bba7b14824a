"""Trade-off curves: distance against agreement or confidence over guidance, evaluations or samplers."""

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
from ddpm_app.studio.request import Request, fixed_guidance
from ddpm_app.studio.studio import Studio

AXES: dict[str, tuple] = {
    "guidance": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0),
    "evaluations": (5, 8, 10, 15, 20, 30),
    "sampler": tuple(name for name, s in SAMPLERS.items() if not s.stochastic),  # ancestral sampling needs hundreds of evaluations
}
MOST_POINTS = 20


@dataclass(frozen=True)
class Sweep:
    """What to vary.

    axis:    one of AXES
    values:  of the axis; () takes those of AXES
    kind:    feature network of the distance
    """

    axis: str
    values: tuple = ()
    kind: str = "classifier"

    def __post_init__(self):
        check_choice("axis", self.axis, AXES)
        if len(self.values) > MOST_POINTS:
            raise ValueError(f"{len(self.values)} values are given; at most {MOST_POINTS} are accepted")
        if not self.values:
            object.__setattr__(self, "values", AXES[self.axis])


class Point(NamedTuple):
    """A point of the curve. Numbers that could not be measured are None.

    value:       of the axis
    name:        of the distance, as in FD-classifier
    distance:    Frechet distance
    agreement:   with the requested classes
    confidence:  mean of the classifier's highest probability
    reason:      why numbers are None, "" if none is
    images:      the samples
    request:     of the samples
    protocol:    of the distance, or of the confidence where there is no distance
    """

    value: float | int | str
    name: str
    distance: float | None
    agreement: float | None
    confidence: float | None
    reason: str
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
        raise ValueError(f"{values[:80]!r} are not values of {axis}; {whole}numbers separated by commas are accepted") from None
    return Sweep(axis.strip(), numbers)


def sweep(studio: Studio, plan: Plan, along: Sweep) -> Iterator[Progress | Point]:
    """Measure plan's samples at each value of an axis, with the same seeds. Closing the generator stops at the next step; finished batches
    stay on disk. plan.metrics is not used. Raises ValueError for a value that is not accepted."""
    if along.axis == "guidance" and (fixed := fixed_guidance(studio.checkpoint(plan.request.checkpoint).config)):
        raise ValueError(fixed)
    requests = [dataclasses.replace(plan.request, **{along.axis: value}) for value in along.values]  # checks all first
    for k, (value, request) in enumerate(zip(along.values, requests)):
        one = dataclasses.replace(plan, request=request, metrics=("fid", "classifier"), features=(along.kind,), seeds=1, images="")
        measured: dict[str, Measurement] = {}
        reasons = []
        with closing(evaluate(studio, one)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield Progress(f"{along.axis} {value}, point {k + 1} of {len(requests)}: {event.what}", event.done, event.total)
                elif isinstance(event, Refusal):
                    reasons.append(event.reason)
                else:
                    measured[event.name] = event
        distance = next((m for name, m in measured.items() if name.startswith(("FD-", "FID")) and not name.endswith("-infinity")), None)
        agreement, confidence = measured.get("agreement"), measured.get("confidence")
        main = distance or confidence
        yield Point(
            value,
            distance.name if distance else f"FD-{along.kind}",
            distance.value if distance else None,
            agreement.value if agreement else None,
            confidence.value if confidence else None,
            "; ".join(dict.fromkeys(reasons)),
            samples_of(studio, request),
            request,
            plain(main.protocol) if main else {},
        )
