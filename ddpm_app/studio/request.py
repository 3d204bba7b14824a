"""A sampling request: its fields, the values they accept, and the same request as Python and as a command line."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass

from ddpm_app.checkpoints.checkpoint import CheckpointConfig
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS
from ddpm_app.flags import changed, check, setting, write_flags

SEED_LIMIT = 2**63 - 2**32
MAX_TEXT = 300  # characters of a prompt
RANKERS = ("classifier", "clip")
THROUGH = ("denoiser", "x0")


@dataclass(frozen=True)
class Request:
    """One sampling request: each field with its help, its unit and what it accepts.

    Re-ranking: image i is the best of the candidates with the seeds seed + i, seed + i + n, seed + i + 2n, ...
    text_through: "x0" takes half the time of "denoiser", but it paints strokes.
    """

    checkpoint: str = setting("", "name in checkpoints/ or runs/ (default: the one the page opens with)", always=True)
    label: str = setting("any", "a class (name or index), all (image i gets class i mod K), any (drawn by each image's seed), none")
    n: int = setting(16, "images; image i has seed SEED + i", low=1, high=10**6)
    guidance: float = setting(1.5, "guidance scale s, 1 is off, s = 1 + w", low=0, high=20)
    sampler: str = setting("unipc", "sampling method", choices=SAMPLERS, always=True)
    evaluations: int = setting(8, "network evaluations per image; with guidance each is two passes", low=1, high=1000, always=True)
    grid: str = setting("auto", "noise levels visited; auto is the sampler's own grid", choices=("auto", *GRIDS))
    eta: float = setting(0.0, "DDIM's noise", low=0, high=1)
    churn: float = setting(0.0, "Heun's noise S_churn", low=0, high=100)
    rescale: float = setting(0.0, "guidance rescale phi", low=0, high=1)
    interval_low: float = setting(0.0, "guide only above this sigma", low=0)
    interval_high: float = setting(math.inf, "guide only up to this sigma", above=0)
    seed: int = setting(0, "seed of the first image", low=0, high=SEED_LIMIT)
    text: str = setting("", "CLIP guidance: a prompt to steer toward (default none)")
    text_scale: float = setting(30.0, "scale of the CLIP guidance, 0 is off", low=0, high=500)
    text_through: str = setting("denoiser", "what the CLIP gradient goes back through", choices=THROUGH)
    classifier_scale: float = setting(0.0, "scale of the guidance by a noise-aware classifier, 0 is off", low=0, high=50)
    steer_low: float = setting(0.0, "CLIP and the classifier guide only above this sigma", low=0)
    steer_high: float = setting(math.inf, "CLIP and the classifier guide only up to this sigma", above=0)
    candidates: int = setting(1, "re-ranking: keep the best of this many", low=1, high=64)
    rank_by: str = setting("classifier", "re-rank by the classifier's probability or by CLIP's similarity", choices=RANKERS)

    def __post_init__(self):
        if isinstance(self.label, int) and not isinstance(self.label, bool):
            object.__setattr__(self, "label", str(self.label))
        check(self)
        if len(self.text) > MAX_TEXT or not self.text.isprintable():
            raise ValueError(f"text is {self.text[:40]!r}; one line of at most {MAX_TEXT} letters is accepted")
        if not 0 <= self.interval_low < self.interval_high:
            raise ValueError(f"the guidance interval is {self.interval_low} to {self.interval_high}; it needs 0 <= low < high")
        if not 0 <= self.steer_low < self.steer_high:
            raise ValueError(f"the steering interval is {self.steer_low} to {self.steer_high}; it needs 0 <= low < high")

    @property
    def steps(self) -> int:
        return SAMPLERS[self.sampler].steps_for(self.evaluations)

    @property
    def true_evaluations(self) -> int:
        """Network evaluations that the steps use: a method with two evaluations per step uses an odd number."""
        return SAMPLERS[self.sampler].cost(self.steps)

    def unranked(self) -> Request:
        """The request for all candidates without re-ranking: its image j is a candidate for image j mod n."""
        return dataclasses.replace(self, n=self.n * self.candidates, candidates=1)

    def options(self) -> dict[str, float]:
        return {k: getattr(self, k) for k in SAMPLERS[self.sampler].options}

    def as_python(self) -> str:
        """Python code that produces the same pixels: images uint8 (n, H, W, C), labels int64 (n,)."""
        fields = ", ".join(f"{k}={v!r}" for k, v in changed(self).items())  # repr: names may hold quotes
        return f"from ddpm_app.studio import Request, Studio\n\nimages, labels = Studio().images(Request({fields}))"

    def as_command(self) -> str:
        """The command line that produces the same pixels."""
        return f"python -m ddpm_app sample {shlex.join(write_flags(self))} --out samples.npz"


def defaults_for(config: CheckpointConfig) -> dict:
    """Fields of a Request to this model where nothing else is asked for, if they differ from Request's own: those of a model tuned to few
    evaluations."""
    return {"sampler": "consistency", "evaluations": config.tuned_for, "guidance": config.guidance} if config.tuned_for else {}


def settled(request: Request, config: CheckpointConfig) -> Request:
    """The request with the guidance that its images have: a tuned model contains its guidance scale, whatever is asked for."""
    return dataclasses.replace(request, guidance=config.guidance) if config.tuned_for else request


def fixed_guidance(config: CheckpointConfig) -> str:
    """One sentence for a model that contains its guidance; "" for others."""
    return f"guidance is fixed at {config.guidance:g}: this model was tuned to it" if config.tuned_for else ""


def check_is_denoiser(config: CheckpointConfig, use: str) -> None:
    """Raise ValueError for a model tuned to few evaluations: it predicts one image where `use` needs the mean of all."""
    if config.tuned_for:
        raise ValueError(f"{use} needs a model that predicts the mean of the clean images; this one was tuned to few evaluations")
