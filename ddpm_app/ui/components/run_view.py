"""The live view of training runs: the server's answers to the browser, which polls every 1.5 s, and its actions on a run."""

from __future__ import annotations

import math

from ddpm_app.paths import runs_dir
from ddpm_app.training import runs
from ddpm_app.training.runs import facts
from ddpm_app.ui.components.base import Component, b64
from ddpm_app.ui.events import friendly

MAX_OPEN = 6  # runs whose curves are sent at once
POINTS = 400  # of one curve
RECENT = 10  # log lines in the average of the loss by noise level
VERBS = ("pause", "resume", "stop", "delete")


def thin_mean(xs: list[float], ys: list[float], most: int = POINTS) -> list[list[float]]:
    """[x, y] of at most `most` points: means over equally many neighbours, so that the curve keeps its level."""
    size = math.ceil(len(xs) / most) if xs else 1
    pairs = ((xs[k : k + size], ys[k : k + size]) for k in range(0, len(xs), size))
    return [[round(sum(x) / len(x)), round(sum(y) / len(y), 6)] for x, y in pairs]


def curves(log: list[dict]) -> dict:
    """Training and validation loss over images seen, and the newest loss by noise level (10,), None for a level without samples."""
    rows = [r for r in log if isinstance(r.get("loss"), (int, float)) and "images" in r]
    validated = [r for r in log if isinstance(r.get("validation_loss"), (int, float)) and "images" in r]
    levels = [r["loss_by_level"] for r in rows[-RECENT:] if isinstance(r.get("loss_by_level"), list)]
    bands = []
    for band in zip(*levels):
        seen = [v for v in band if v is not None]
        bands.append(round(sum(seen) / len(seen), 5) if seen else None)
    return {
        "train": thin_mean([r["images"] for r in rows], [r["loss"] for r in rows]),
        "held": thin_mean([r["images"] for r in validated], [r["validation_loss"] for r in validated]),
        "bands": bands,
    }


def train_poll(query: dict) -> dict:
    """The runs for the page: {"runs": [name, status, message, progress of every run], "open": {name: details}}.

    query["open"]       names of the runs whose details are sent
    query["have"]       {name: log lines}: curves of this length are left out
    query["grids"]      {name: file}: these grids are left out

    The query comes from the browser and may be any value."""
    query = query if isinstance(query, dict) else {}
    want, have, grids = query.get("open"), query.get("have"), query.get("grids")
    want = [n for n in want if isinstance(n, str)][:MAX_OPEN] if isinstance(want, list) else []
    have, grids = have if isinstance(have, dict) else {}, grids if isinstance(grids, dict) else {}
    heads, details = [], {}
    for run in runs.runs():
        f = facts(run)
        heads.append({k: f[k] for k in ("name", "status", "message", "progress")})
        if run.name not in want:
            continue
        log, grid, settings = run.log(), run.newest_grid(), run.settings
        detail = {**f, "rows": len(log), "snapshots": [p.name for p in run.snapshots()]}
        detail["fresh"] = [k for k in ("preset", "prediction_type", "schedule", "batch", "data") if settings.get(k) is not None]
        detail["about"] = " · ".join(str(runs.short(str(settings[k]))) + (" a batch" if k == "batch" else "") for k in detail.pop("fresh"))
        detail["skipped"] = [runs.short(line)[:200] for line in run.skipped()[:50]]
        if have.get(run.name) != len(log):
            detail["curves"] = curves(log)
        if grid is not None:
            detail["grid"] = grid.name
            if grids.get(run.name) != grid.name:
                try:
                    detail["picture"] = b64(grid.read_bytes())
                except OSError:
                    pass
        details[run.name] = detail
    return {"runs": heads, "open": details, "where": str(runs_dir())}


def train_act(query: dict) -> dict:
    """Do one of VERBS to a run: {"ok": sentence} or {"error": sentence}."""
    query = query if isinstance(query, dict) else {}
    try:
        if query.get("do") not in VERBS:
            raise ValueError(f"unknown action {str(query.get('do'))[:40]!r}; known: {', '.join(VERBS)}")
        run = runs.find(query.get("run") if isinstance(query.get("run"), str) else "")
        place = getattr(run, query["do"])()
        return {"ok": f"{run.name} is in {runs.short(str(place))} now." if place else ""}
    except Exception as error:
        return {"error": str(friendly(error).message)}


class RunView(Component):
    """Runs, their curves and their newest samples. Triggers recall with {run, snapshot} for a fork."""

    description = "The run to show."
    server_functions = (train_poll, train_act)

    def __init__(self, **options):
        super().__init__({"select": None, "stamp": 0}, **options)
