"""Post-hoc EMA: a power-function average of any length of a run's weights, made after the run from the averages in its snapshots.

A power-function EMA of exponent gamma at time t averages the weights with the profile p(tau) = (gamma+1) tau^gamma / t^(gamma+1)
on [0, t]. Snapshots hold such averages at several times for two or more gammas. A linear combination of their profiles approximates
the wanted profile; the same combination of the stored weights is the wanted average (Karras et al. 2024, section 3, appendix C).
Time is the optimiser's step; ema.Ema's recursion has exactly these profiles when the weights are constant within a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddpm_app.checkpoints import checkpoint
from ddpm_app.checkpoints import weights as checkpoints_weights
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.files import read_text, save_tensors, write_atomically
from ddpm_app.networks.ema import power_gamma
from ddpm_app.training.runs import LIVE, Run

RAW = "raw"
OWN = "own"  # the EMA that the run itself tracks
LENGTHS = (0.01, 0.28)  # shortest and longest relative width offered
NOISE = 1e-4  # cost of a coefficient of 1, as a share of the profile: large coefficients multiply rounding errors
EARLY = (0.01, 0.025)  # shares of the budget with an extra snapshot, because samples change fastest there


def inner(t_a, gamma_a, t_b, gamma_b) -> np.ndarray:
    """Integral of p_a(tau) p_b(tau): (ga+1)(gb+1) min(ta,tb)^(ga+gb+1) / ((ga+gb+1) ta^(ga+1) tb^(gb+1)). Arrays broadcast."""
    t_a, g_a, t_b, g_b = (np.asarray(v, np.float64) for v in (t_a, gamma_a, t_b, gamma_b))
    power = (g_a + g_b + 1) * np.log(np.minimum(t_a, t_b)) - (g_a + 1) * np.log(t_a) - (g_b + 1) * np.log(t_b)
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * np.exp(power)


def combination(times, lengths, time: float, length: float) -> tuple[np.ndarray, float]:
    """(x, error): coefficients (n,) of stored profiles whose combination is nearest to a wanted profile p in the mean square.

    times, lengths: (n,) of the stored profiles p_i
    time, length:   of the wanted profile p
    error:          the remaining distance |sum x_i p_i - p| / |p|
    The coefficients have the sum 1, so that constant weights stay unchanged. The minimised function includes NOISE^2 |x|^2 |p|^2;
    without this term, nearly equal profiles get large coefficients of both signs, which multiply the rounding errors of the stored
    weights. Raises ValueError if there are no profiles, or for a length out of range.
    """
    times, gammas = np.asarray(times, np.float64), np.array([power_gamma(v) for v in lengths])
    if not len(times) or not time > 0 or not 0 < length < 1 / np.sqrt(12):
        raise ValueError(f"no average of length {length:g} at step {time:g}: lengths lie between 0 and 0.288, and snapshots are needed")
    gamma, n = power_gamma(length), len(times)
    square = float(inner(time, gamma, time, gamma))
    # times and profiles in units of the target's, so that steps of any size give numbers around 1
    gram = inner(times[:, None], gammas[:, None], times, gammas) / square
    right = inner(times, gammas, time, gamma) / square
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = gram + NOISE**2 * np.eye(n)
    system[n, :n] = system[:n, n] = 1
    x = np.linalg.lstsq(system, np.append(right, 1.0), rcond=1e-15)[0][:n]
    return x, float(np.sqrt(max(1 - 2 * x @ right + x @ gram @ x, 0.0)))


# -- stored averages ------------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A set of weights on disk.

    snapshot   directory of its snapshot
    step       optimiser steps at the snapshot
    images     training images at the snapshot
    length     length of the power-function EMA, or RAW
    file       its .safetensors file
    """

    snapshot: Path
    step: int
    images: int
    length: float | str
    file: Path


def snapshot_points(n: int) -> list[float]:
    """Shares of the budget at which the n snapshots are due; from n = 10 on, two early ones are added."""
    return sorted({k / n for k in range(1, n + 1)} | (set(EARLY) if n >= 10 else set()))


def save_averages(
    folder: Path, step: int, own: dict[str, Tensor], raw: dict[str, Tensor], averages: dict[float, dict[str, Tensor]]
) -> None:
    """Write the raw weights, each average and profiles.json into a snapshot's folder. own: the weights that the snapshot will hold.

    Each file holds the fp16 difference to the snapshot's fp16 weights, which gives twice the digits of fp16 for the same bytes.
    (Averages stored directly as fp16 were useless for lengths below 0.05, because large coefficients multiply their rounding.)
    The snapshot's config.json is written after these files, so that an incomplete snapshot has none and is ignored.
    """
    files: dict[str, str | float] = {}
    base = {k: v.detach().half().float() for k, v in own.items()}
    for length, weights in {RAW: raw, **averages}.items():
        name = f"{RAW}.safetensors" if length == RAW else f"ema-{length:g}.safetensors"
        save_tensors(folder / name, {k: (weights[k] - v).half() for k, v in base.items()}, {"format": "pt"})
        files[name] = length
    write_atomically(folder / "profiles.json", json.dumps({"step": step, "files": files}))


def stored(run: Path) -> list[Stored]:
    """All weights stored in a run's snapshots, oldest first. Snapshots of older versions hold none."""
    averages = []
    for config in sorted((run / "snapshots").glob("*/config.json")):
        folder = config.parent
        try:
            profiles = json.loads(read_text(folder / "profiles.json"))
            step, files = int(profiles["step"]), dict(profiles["files"])
            pairs = [(name, RAW if length == RAW else float(length)) for name, length in files.items() if Path(name).name == name]
            averages += [Stored(folder, step, int(folder.name), length, folder / name) for name, length in pairs if step > 0]
        except (ValueError, KeyError, TypeError):
            continue
    return averages


def read(place: Stored, base: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The stored weights, float32. base: the weights of the snapshot, if they are loaded already. Raises CheckpointError."""
    base = base or checkpoints_weights.read_weights(place.snapshot)
    try:
        with safe_open(place.file, "pt") as f:
            return {k: v + f.get_tensor(k).float() for k, v in base.items()}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{place.file} is incomplete, missing or of another network ({error})") from error


@dataclasses.dataclass(frozen=True)
class Average:
    """Which average a set of weights is.

    length   length of the EMA as a share of the run, RAW or OWN
    step     optimiser steps at its snapshot
    images   training images at its snapshot
    error    distance of its profile from the wanted one, |sum x p - p| / |p|
    used     how many stored sets of weights it was made of
    own      description of the run's own EMA; used with OWN
    """

    length: float | str
    step: int
    images: int
    error: float
    used: int
    own: str = ""

    def describe(self) -> str:
        """The text for a checkpoint's `ema`."""
        if self.length == OWN:
            return self.own
        if self.length == RAW:
            return "none (raw weights)"
        made = "" if self.used == 1 else f" (after the fact from {self.used} stored averages, profile within {self.error:.1%})"
        return f"power, {self.length:g} of the run{made}"


def pick(places: list[Stored], snapshot: str = "") -> Stored:
    """The raw weights of a snapshot (the name of its directory), or of the last one. Raises ValueError."""
    raw = [p for p in places if p.length == RAW and snapshot in ("", p.snapshot.name)]
    if not raw:
        raise ValueError(f"no snapshot {snapshot[:40]!r} with raw weights" if snapshot else "no snapshot with averages yet")
    return raw[-1]


def reconstruct(run: Path, length: float | str, snapshot: str = "") -> tuple[dict[str, Tensor], Average]:
    """The average of this length (or RAW) at a snapshot (default: the last), float32, made from what was stored up to it.

    Raises ValueError for a length or snapshot that does not exist, CheckpointError for damaged files."""
    places = stored(run)
    if not places:
        raise ValueError(f"{run.name} has no stored averages: it has no snapshot yet, or its snapshots hold one EMA only")
    at = pick(places, snapshot)
    if length == RAW:
        return read(at), Average(RAW, at.step, at.images, 0.0, 1)
    length = float(length)
    if not LENGTHS[0] <= length <= LENGTHS[1]:
        raise ValueError(f"the length is {length:g}; {LENGTHS[0]:g} to {LENGTHS[1]:g} of the run is accepted, or raw")
    same = next((p for p in places if p.length == length and p.step == at.step), None)
    if same is not None:
        return read(same), Average(length, at.step, at.images, 0.0, 1)
    known = [p for p in places if p.length != RAW and p.step <= at.step]
    x, error = combination([p.step for p in known], [p.length for p in known], at.step, length)
    total: dict[str, Tensor] = {}
    before, base = None, {}
    for k, place in zip(x.tolist(), known):
        if place.snapshot != before:
            before, base = place.snapshot, checkpoints_weights.read_weights(place.snapshot)
        for name, value in read(place, base).items():
            total[name] = total[name].add_(value, alpha=k) if name in total else value * k
    return total, Average(length, at.step, at.images, error, len(known))


def write(run: Path, length: float | str, out: Path, snapshot: str = "", dtype: torch.dtype = torch.float16) -> Average:
    """Make the average and save it as a checkpoint directory, without the numbers measured on other weights."""
    weights, average = reconstruct(run, length, snapshot)
    at = pick(stored(run), snapshot)
    config = checkpoint.open_checkpoint(at.snapshot).config
    config = dataclasses.replace(config, ema=average.describe(), images_seen=average.images, metrics=[])
    checkpoint.save(out, config, weights, dtype)
    return average


def keep(run: Run, length: float | str, snapshot: str = "") -> Average:
    """Make an average the run's checkpoint. OWN: the run's own EMA at the snapshot (default: the last).

    The state from which the run resumes is not changed. Measured numbers are removed unless the weights stay the same. Raises
    ValueError while the run trains."""
    status, _ = run.status()
    if status in LIVE:
        raise ValueError(f"{run.name} is {status} and will save its own weights; stop it or wait until it has ended")
    if length == OWN:
        return _keep_own(run, snapshot)
    with contextlib.suppress(CheckpointError):
        before = checkpoint.open_checkpoint(run.folder).config
        _, average = reconstruct(run.folder, length, snapshot)
        if (before.ema, before.images_seen) == (average.describe(), average.images):
            return average
    return write(run.folder, length, run.folder, snapshot)


def _keep_own(run: Run, snapshot: str) -> Average:
    place = next((p for p in reversed(run.snapshots()) if snapshot in ("", p.name)), None)
    if place is None:
        raise ValueError(f"{run.name} has no snapshot {snapshot[:40]!r}" if snapshot else f"{run.name} has no snapshot yet")
    config = checkpoint.open_checkpoint(place).config
    with contextlib.suppress(CheckpointError):
        before = checkpoint.open_checkpoint(run.folder).config
        if (before.ema, before.images_seen) == (config.ema, config.images_seen):
            return Average(OWN, 0, config.images_seen, 0.0, 1, config.ema)
    checkpoint.save(run.folder, dataclasses.replace(config, metrics=[]), checkpoints_weights.read_weights(place))
    return Average(OWN, 0, config.images_seen, 0.0, 1, config.ema)


def deviation(a: dict[str, Tensor], b: dict[str, Tensor], scale: Iterable[Tensor] | None = None) -> float:
    """|a - b| over all weights, as a share of |scale| (default |b|)."""
    apart = sum(float((a[k].double() - v.double()).square().sum()) for k, v in b.items())
    size = sum(float(v.double().square().sum()) for v in (b.values() if scale is None else scale))
    return (apart / size) ** 0.5
