"""Snapshots of a run: samples of each from the same noise, and measured numbers at 10 %, 30 % and 100 % of the budget.

Pictures and numbers are stored in the folder history/ of the run. The pictures of the run's own EMA continue the grids that training
draws: same seeds, same sampler, one row for each class.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.files import plain, read_text, write_atomically
from ddpm_app.flags import check_choice
from ddpm_app.images import render
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.training import posthoc_ema
from ddpm_app.training.posthoc_ema import OWN
from ddpm_app.training.runs import Run

COLUMNS, MAX_ROWS = 4, 10  # images per class and classes in a grid, the same as in the grids drawn during training
SETTINGS = {"sampler": "dpmpp-2m", "evaluations": 12, "guidance": 1.5, "grid": "uniform-t", "seed": 0}
SHARES = (0.1, 0.3, 1.0)  # of the budget, the rows of the table
NEAR = 0.06  # largest difference between a share and its snapshot
SAMPLES = 200  # for a row of the table: seconds on a GPU, half a minute on two cores


@dataclass(frozen=True)
class Moment:
    """A point of a run. Values that the log does not have are None.

    images:      that the run has seen
    share:       of the budget
    loss:        mean over the log rows around it
    validation:  the nearest validation loss
    """

    images: int
    share: float | None = None
    loss: float | None = None
    validation: float | None = None


def moment(run: Run, images: int) -> Moment:
    """The log's values after so many images."""
    log = run.log()
    rows = [r for r in log if isinstance(r.get("loss"), (int, float)) and isinstance(r.get("images"), int)]
    measured = [r for r in log if isinstance(r.get("validation_loss"), (int, float)) and isinstance(r.get("images"), int)]
    near = min(range(len(rows)), key=lambda k: abs(rows[k]["images"] - images), default=None)
    around = [] if near is None else [r["loss"] for r in rows[max(near - 2, 0) : near + 3]]
    # None if the nearest measurement is far away
    nearest = min(measured, key=lambda r: abs(r["images"] - images), default={"images": math.inf})
    close = abs(nearest["images"] - images) <= max(0.06 * max((r["images"] for r in rows), default=0), 1)
    validation = nearest["validation_loss"] if close else None
    share = None if near is None else share_of(run, rows[near])
    return Moment(images, share, sum(around) / len(around) if around else None, validation)


def share_of(run: Run, row: dict) -> float | None:
    """The share of the run's present budget at a log row. The budget may have changed since the row was written."""
    minutes, images, seconds = run.settings.get("minutes"), run.settings.get("images"), row.get("seconds")
    if isinstance(minutes, (int, float)) and minutes > 0 and isinstance(seconds, (int, float)):
        return min(seconds / (60 * minutes), 1.0)
    return min(row["images"] / images, 1.0) if isinstance(images, int) and images > 0 else row.get("progress")


def name_of(weights: str | float) -> str:
    """The folder of a set of pictures: own, raw, or ema-0.08. Raises ValueError for anything else."""
    if weights in (OWN, posthoc_ema.RAW):
        return str(weights)
    try:
        length = float(weights)
    except (TypeError, ValueError):
        length = math.nan
    if not posthoc_ema.LENGTHS[0] <= length <= posthoc_ema.LENGTHS[1]:
        shown = str(weights)[:40]
        low, high = posthoc_ema.LENGTHS
        raise ValueError(f"weights {shown!r}: {OWN}, {posthoc_ema.RAW} or an EMA length from {low:g} to {high:g} of the run is accepted")
    return f"ema-{length:g}"


def frames(run: Run, weights: str | float = OWN) -> dict[int, Path]:
    """{images seen: grid, a PNG} of a set, oldest first, without those that differ in size from the newest."""
    places = list((run.folder / "history" / name_of(weights)).glob("[0-9]*.png"))
    if weights == OWN:
        places += (run.folder / "samples").glob("[0-9]*.png")
    files = {int(p.stem): p for p in places if p.stem.isdecimal()}
    sizes = {images_seen: _size(files[images_seen]) for images_seen in sorted(files)}
    newest_size = next((size for size in reversed(sizes.values()) if size), None)
    return {images_seen: files[images_seen] for images_seen, size in sizes.items() if size and size == newest_size}


def _size(file: Path) -> tuple[int, int] | None:
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return picture.size
    except (OSError, ValueError):
        return None


def sets(run: Run) -> list[str]:
    """Names of the sets with pictures: own first, then raw, then the lengths."""
    names = [p.name for p in sorted((run.folder / "history").glob("*")) if p.name == posthoc_ema.RAW or re.fullmatch(r"ema-0\.\d+", p.name)]
    return [OWN, *sorted(names, key=lambda n: (n != posthoc_ema.RAW, n))]


def weights_of(name: str) -> str | float:
    """The inverse of name_of."""
    return float(name.removeprefix("ema-")) if name.startswith("ema-") else name


# -- pictures -------------------------------------------------------------------------------------------------------------


def draw(studio: Studio, run: Run, weights: str | float = OWN, snapshots: tuple[str, ...] = ()) -> Iterator[tuple[int, int]]:
    """Sample the same seeds at each snapshot (default: all) with these weights; yields (done, total) in steps of the network.
    Stored grids are not drawn again. Raises ValueError if the run has no such weights."""
    name = name_of(weights)
    known = {p.name: p for p in run.snapshots()}
    if not known:
        raise ValueError(f"{run.name} has no snapshots yet; the first comes after a hundredth of its budget")
    for snapshot in snapshots:
        check_choice(f"snapshot of {run.name}", snapshot, known)
    drawn = frames(run, weights)
    wanted = [known[s] for s in (snapshots or known) if int(s) not in drawn]
    steps = SETTINGS["evaluations"]
    for k, place in enumerate(wanted):
        yield k * steps, len(wanted) * steps
        with tempfile.TemporaryDirectory(prefix="ddpm-average-") as folder:
            if weights != OWN:
                posthoc_ema.write(run.folder, weights, Path(folder) / "checkpoint", place.name, torch.float32)
            request, labels = grid_request(place if weights == OWN else Path(folder) / "checkpoint")
            frame = None
            for frame in studio.sample(request, labels=labels):
                yield k * steps + frame.i, len(wanted) * steps
            picture = render.grid(torch.from_numpy(frame.x), COLUMNS)
        file = run.folder / "history" / name / f"{place.name}.png"
        write_atomically(file, render.encode(picture, "png"))
    yield 1, 1


def grid_request(checkpoint: Path) -> tuple[Request, np.ndarray]:
    """The request and labels of a grid, one row a class (at most MAX_ROWS); -1 if the network has no classes."""
    classes = min(open_checkpoint(checkpoint).config.network.num_classes, MAX_ROWS)
    rows = classes or MAX_ROWS
    labels = np.arange(rows).repeat(COLUMNS) if classes else np.full(rows * COLUMNS, -1)
    return Request(str(checkpoint), n=rows * COLUMNS, label="all" if classes else "none", **SETTINGS), labels.astype(np.int64)


def caption(m: Moment) -> str:
    parts = [f"{m.images:,} images"]
    parts += [f"{m.share:.0%} of the budget"] if m.share is not None else []
    parts += [f"loss {m.loss:.4f}"] if m.loss is not None else []
    return " · ".join(parts)


def animation(run: Run, kind: str, weights: str | float = OWN, fps: float = 4) -> bytes:
    """The set as "gif", "webp" or "mp4", with captions. Raises ValueError for fewer than two frames, RuntimeError without PyAV."""
    encoders = {"gif": render.gif, "webp": render.webp, "mp4": render.mp4}
    if kind not in encoders:
        raise ValueError(f"{str(kind)[:20]!r} is no animation; gif, webp and mp4 are accepted")
    places = frames(run, weights)
    if len(places) < 2:
        raise ValueError(f"{run.name} has {len(places)} pictures of these weights; two are needed to move")
    pictures = []
    for file in places.values():
        with Image.open(file, formats=("PNG",)) as picture:
            pictures.append(picture.convert("RGB"))
    return encoders[kind](pictures, fps=fps, captions=[caption(moment(run, k)) for k in places])


# -- the table ------------------------------------------------------------------------------------------------------------


def at_shares(run: Run, shares: tuple[float, ...] = SHARES) -> dict[float, Path]:
    """The snapshot nearest to each share of the budget; shares without a snapshot nearby are left out."""
    nearest = {}
    places = [(p, moment(run, int(p.name)).share) for p in run.snapshots()]
    for share in shares:
        near = min(((abs(at - share), p) for p, at in places if at is not None), default=(1.0, None))
        if near[0] <= NEAR:
            nearest[share] = near[1]
    return nearest


def table(run: Run) -> list[dict]:
    """The stored rows, at most one for each of SHARES. Rows whose snapshots are no longer at their shares are left out: the budget was
    lengthened, or the run continued from an earlier state."""
    try:
        rows = json.loads(read_text(run.folder / "history" / "table.json") or "[]")
        rows = {r["share"]: r for r in rows if isinstance(r, dict) and r.get("share") in SHARES and isinstance(r.get("images"), int)}
    except (ValueError, TypeError):
        return []
    here = {p.name for p in run.snapshots()}
    now = {share: moment(run, r["images"]).share if r.get("snapshot") in here else None for share, r in rows.items()}
    return [rows[share] for share in sorted(rows) if now[share] is not None and abs(now[share] - share) <= NEAR]


def fill(studio: Studio, run: Run, n: int = SAMPLES) -> Iterator[dict]:
    """Measure n samples of the run's own EMA at each share; yields {"what", "done", "total"} and stores each finished row.
    Numbers and protocols are those of evaluate(); a row's "refused" has the reasons of numbers that could not be measured."""
    from ddpm_app.evaluation.evaluate import evaluate, shipped_features
    from ddpm_app.evaluation.plan import Plan

    places = at_shares(run)
    if not places:
        raise ValueError(f"{run.name} has no snapshot near {', '.join(f'{s:.0%}' for s in SHARES)} of its budget yet")
    for k, (share, place) in enumerate(places.items()):
        config = open_checkpoint(place).config
        label = "all" if config.network.num_classes else "none"
        metrics = ("classifier", "fid", *(("clip",) if "clip" in shipped_features(config.data) else ()))
        plan = Plan(Request(str(place), n=n, label=label, **SETTINGS), metrics=metrics, features=("classifier",))
        numbers, refused = {}, []
        for event in evaluate(studio, plan):
            if hasattr(event, "total"):
                done = k + event.done / max(event.total, 1)
                yield {"what": f"{share:.0%} of the budget: {event.what}", "done": done, "total": len(places)}
            elif hasattr(event, "reason"):
                refused.append(event.reason)
            else:
                numbers[event.name] = dataclasses.asdict(event)
        row = {**dataclasses.asdict(moment(run, int(place.name))), "share": float(share), "snapshot": place.name, "n": n}
        row |= {"numbers": plain(numbers), "refused": list(dict.fromkeys(refused))}
        rows = [r for r in table(run) if r["share"] != share] + [row]
        write_atomically(run.folder / "history" / "table.json", json.dumps(rows, indent=1))
    yield {"what": "done", "done": len(places), "total": len(places)}


def short(row: dict) -> dict:
    """The main numbers of a row, None if not measured: agreement and confidence (real: of real test images), counts of each
    predicted class, distance with its name, clip."""
    numbers = row.get("numbers") if isinstance(row.get("numbers"), dict) else {}

    def value(name, *path):
        result = numbers.get(name)
        for key in path or ("value",):
            result = result.get(key) if isinstance(result, dict) else None
        return result

    distance = next((name for name in numbers if name.startswith("FD") and not name.endswith("infinity")), None)
    return {
        **{k: row.get(k) for k in ("share", "snapshot", "images", "loss", "validation", "n", "refused")},
        "agreement": value("agreement"),
        "real_agreement": value("agreement", "detail", "real test images"),
        "confidence": value("confidence"),
        "real_confidence": value("confidence", "detail", "real test images"),
        "counts": value("confidence", "detail", "generated", "counts"),
        "classes": value("confidence", "detail", "classes"),
        "uneven": value("distance-from-uniform"),
        "chance_uneven": value("distance-from-uniform", "detail", "by chance"),
        "distance": value(distance) if distance else None,
        "distance_name": distance,
        "real_distance": value(distance, "detail", "real test images") if distance else None,
        "clip": value("clip-top1"),
    }
