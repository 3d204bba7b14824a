"""A sampling request: what may be asked, its bounds, and how the same request reads as Python and as a command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS

SEED_LIMIT = 2**63 - 2**32
MAX_TEXT = 300  # letters of a prompt
RANKERS = ("classifier", "clip")
THROUGH = ("denoiser", "x0")


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """Return name if it is one of names, else raise ValueError with the nearest known one."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    raise ValueError(f"unknown {kind} {str(name)[:80]!r}; {hint}")


@dataclass(frozen=True)
class Request:
    """One sampling request.

    checkpoint:   a name in checkpoints/ or runs/
    label:        a class (name or index), "all" (image i gets class i mod K), "any" (each image's seed picks its class),
                  "none" (unconditional)
    n:            images; image i has the seed `seed + i`
    guidance:     s, 1 = off; sampler, evaluations: SAMPLERS, denoiser evaluations per image (with guidance each is two passes)
    grid:         one of GRIDS, or "auto" for the sampler's own
    eta, churn:   DDIM's and Heun's noise; ignored by samplers without that option
    rescale, interval_low, interval_high: of the guidance, see guidance.cfg
    text, text_scale: CLIP guidance toward a prompt; an empty text or the scale 0 is off
    text_through: its gradient goes back through the "denoiser", or only to the predicted "x0": half the time, but it paints strokes
    classifier_scale: of the guidance by a noise-aware classifier toward the class, 0 is off; with guidance = 0 it steers alone
    steer_low, steer_high: CLIP and the classifier guide where steer_low < sigma <= steer_high
    candidates:   re-ranking: image i is the best of this many, those with the seeds seed + i, seed + i + n, seed + i + 2n, ...
    rank_by:      by what: "classifier" (probability of its class) or "clip" (similarity to the text, or to its class)
    """

    checkpoint: str = ""
    label: str = "any"
    n: int = 16
    guidance: float = 1.5
    sampler: str = "dpmpp-2m"
    evaluations: int = 20
    grid: str = "auto"
    eta: float = 0.0
    churn: float = 0.0
    rescale: float = 0.0
    interval_low: float = 0.0
    interval_high: float = math.inf
    seed: int = 0
    text: str = ""
    text_scale: float = 30.0
    text_through: str = "denoiser"
    classifier_scale: float = 0.0
    steer_low: float = 0.0
    steer_high: float = math.inf
    candidates: int = 1
    rank_by: str = "classifier"

    def __post_init__(self):
        if isinstance(self.label, int) and not isinstance(self.label, bool):
            object.__setattr__(self, "label", str(self.label))
        for name in ("checkpoint", "label", "text"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; a text is accepted")
        known("sampler", self.sampler, SAMPLERS)
        known("grid", self.grid, ["auto", *GRIDS])
        known("ranking", self.rank_by, RANKERS)
        known("gradient", self.text_through, THROUGH)
        if len(self.text) > MAX_TEXT or not self.text.isprintable():
            raise ValueError(f"text is {self.text[:40]!r}; one line of at most {MAX_TEXT} letters is accepted")
        for name, low, high in (("n", 1, 10**6), ("evaluations", 1, 1000), ("seed", 0, SEED_LIMIT), ("candidates", 1, 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; a whole number from {low} to {high} is accepted")
        numbers = (
            ("guidance", 0, 20),
            ("eta", 0, 1),
            ("churn", 0, 100),
            ("rescale", 0, 1),
            ("text_scale", 0, 500),
            ("classifier_scale", 0, 50),
        )
        for name, low, high in numbers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; a number from {low} to {high} is accepted")
        if not 0 <= self.interval_low < self.interval_high:
            raise ValueError(f"the guidance interval is {self.interval_low} to {self.interval_high}; it needs 0 <= low < high")
        if not 0 <= self.steer_low < self.steer_high:
            raise ValueError(f"the steering interval is {self.steer_low} to {self.steer_high}; it needs 0 <= low < high")

    @property
    def steps(self) -> int:
        return SAMPLERS[self.sampler].steps_for(self.evaluations)

    @property
    def true_evaluations(self) -> int:
        """What the steps really cost: two-evaluation methods use an odd number."""
        return SAMPLERS[self.sampler].cost(self.steps)

    def unranked(self) -> Request:
        """The request for every candidate: image j of it competes for place j mod n."""
        return dataclasses.replace(self, n=self.n * self.candidates, candidates=1)

    def options(self) -> dict[str, float]:
        return {k: getattr(self, k) for k in SAMPLERS[self.sampler].options}

    def changed(self) -> dict:
        """Fields that differ from the defaults (and the checkpoint), for code and command lines."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: v for k, v in dataclasses.asdict(self).items() if v != default[k] or k == "checkpoint"}

    def as_python(self) -> str:
        """Python that gives the same pixels: images uint8 (n, H, W, C), labels int64 (n,)."""
        fields = ", ".join(f"{k}={v!r}" for k, v in self.changed().items())  # repr: names may hold quotes
        return f"from ddpm_app.studio import Request, Studio\n\nimages, labels = Studio().images(Request({fields}))"

    def as_command(self) -> str:
        """The command line that gives the same pixels."""
        pairs = ((f"--{k.replace('_', '-')}", str(v)) for k, v in self.changed().items())
        # = keeps argparse from taking a value that begins with a dash for a flag
        flags = " ".join(f"{flag}={shlex.quote(v)}" if v.startswith("-") else f"{flag} {shlex.quote(v)}" for flag, v in pairs)
        return f"python -m ddpm_app sample {flags} --out samples.npz"
