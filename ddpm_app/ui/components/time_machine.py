"""The time machine of the Train tab: the same noise at every snapshot, with any EMA length, and the table at 10 %, 30 %, 100 %."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.evaluation import snapshots as history
from ddpm_app.studio.studio import Studio
from ddpm_app.training import posthoc_ema, runs
from ddpm_app.ui.components.base import Component, b64
from ddpm_app.ui.components.player import EXPORTS
from ddpm_app.ui.events import friendly

PICTURES = 8  # in one answer
MOST_TASKS = 2  # at a time, over all runs: they share the device with every visitor's sampling


@dataclass
class Task:
    """Work on a run in a thread, which continues when the page is closed.

    what            name of the work
    done, total     progress
    error           a sentence, empty without one
    running         whether the thread works
    stop            set to make the thread end
    """

    what: str
    done: float = 0.0
    total: float = 1.0
    error: str = ""
    running: bool = True
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self, events: Iterator) -> None:
        try:
            for event in events:
                if isinstance(event, dict):
                    self.what, self.done, self.total = event["what"], event["done"], event["total"]
                else:
                    self.done, self.total = event
                if self.stop.is_set():
                    break
        except Exception as error:
            self.error = str(friendly(error).message)
        finally:
            events.close()
            self.running = False

    def as_message(self) -> dict:
        return {
            "what": self.what,
            "share": min(self.done / self.total, 1.0) if self.total else 0.0,
            "error": self.error,
            "live": self.running,
        }


class Busy(ValueError):
    """Other work on the run is active."""


TASKS: dict[str, Task] = {}  # by the run's folder
_lock = threading.Lock()


def begin(run: runs.Run, what: str, events: Iterator) -> Task:
    """Start work on a run. Raises Busy if other work on it is active, ValueError if MOST_TASKS runs have work."""
    with _lock:
        active = [key for key, task in TASKS.items() if task.running]
        if str(run.folder) in active:
            raise Busy(f"{run.name} is busy; stop its other work first")
        if len(active) >= MOST_TASKS:
            raise ValueError(f"{len(active)} time machines are active; at most {MOST_TASKS} are accepted at a time")
        task = TASKS[str(run.folder)] = Task(what)
    threading.Thread(target=task.work, args=(events,), daemon=True).start()
    return task


def find(query) -> runs.Run:
    name = query.get("run") if isinstance(query, dict) else None
    return runs.find(name if isinstance(name, str) else "")


def look(query: dict) -> dict:
    """The state of query["run"]: its sets of pictures, the log's numbers at each, the table, the active work.

    query["want"]       sets whose pictures are sent, at most PICTURES at a time
    query["have"]       {set: [images seen]}: pictures that are left out

    The query comes from the browser and may be any value."""
    try:
        run = find(query)
    except ValueError as error:
        return {"error": str(error)}
    want = [n for n in query.get("want") or [] if isinstance(n, str)][:2] if isinstance(query.get("want"), list) else []
    have = query["have"] if isinstance(query.get("have"), dict) else {}
    sets = {name: history.frames(run, history.weights_of(name)) for name in history.sets(run)}
    snapshots = run.snapshots()
    pictures: dict[str, dict[str, str]] = {}
    left = PICTURES
    for name in want:
        known = have.get(name) if isinstance(have.get(name), list) else []
        for images, file in reversed(sets.get(name, {}).items()):
            if images not in known and left:
                try:
                    pictures.setdefault(name, {})[str(images)] = b64(file.read_bytes())
                    left -= 1
                except OSError:
                    continue
    times = sorted({k for places in sets.values() for k in places} | {int(p.name) for p in snapshots if p.name.isdecimal()})
    task = TASKS.get(str(run.folder))
    try:
        config = open_checkpoint(run.folder).config
        kept = f"{config.ema}, after {config.images_seen:,} images"
    except CheckpointError:
        kept = ""
    return {
        "run": run.name,
        "sets": {name: list(places) for name, places in sets.items()},
        "moments": {str(k): asdict(history.moment(run, k)) for k in times},
        "snapshots": [p.name for p in snapshots],
        "lengths": sorted({p.length for p in posthoc_ema.stored(run.folder) if p.length != posthoc_ema.RAW}),
        "pictures": pictures,
        "more": not left,
        "table": [history.short(r) for r in history.table(run)],
        "task": task.as_message() if task else None,
        "kept": kept,
        "live": run.status()[0] in runs.LIVE,
    }


def act(studio: Studio, query: dict) -> dict:
    """Do query["do"]: draw (weights; at one snapshot or all), table, stop, keep, export. Returns {"ok": sentence, ...} or
    {"error": sentence}, with "busy" if other work on the run is active."""
    try:
        run, do = find(query), query.get("do")
        weights, snapshot = query.get("weights", history.OWN), query.get("snapshot") or ""
        if not isinstance(snapshot, str) or isinstance(weights, bool) or not isinstance(weights, (str, int, float)):
            raise ValueError("weights or snapshot is no name; a name of weights or an EMA length, and a name of a snapshot, are accepted")
        weights = history.weights_of(history.name_of(weights))
        if do == "draw":
            if weights != history.OWN and not posthoc_ema.stored(run.folder):
                raise ValueError(f"{run.name} has no stored averages: its snapshots hold one EMA only, or there is none yet")
            begin(run, "sampling", history.draw(studio, run, weights, (snapshot,) if snapshot else ()))
            return {"ok": ""}
        if do == "table":
            begin(run, "measuring", history.fill(studio, run))
            return {"ok": ""}
        if do == "stop":
            task = TASKS.get(str(run.folder))
            if task:
                task.stop.set()
            return {"ok": ""}
        if do == "keep":
            average = posthoc_ema.keep(run, weights, snapshot)
            return {"ok": f"{run.name} now has the weights: {average.describe()}, after {average.images:,} images."}
        if do == "export":
            kind = query.get("kind")
            data = history.animation(run, kind if isinstance(kind, str) else "", weights)
            return {"ok": f"{len(data) / 1e6:.1f} MB", "data": b64(data), "type": EXPORTS[kind][1]}
        raise ValueError(f"unknown action {str(do)[:40]!r}; known: draw, table, stop, keep, export")
    except Busy as error:
        return {"error": str(error), "busy": True}
    except RuntimeError as error:  # no PyAV here
        return {"error": str(error)}
    except Exception as error:
        return {"error": str(friendly(error).message)}


class TimeMachine(Component):
    """Shows the run that the page's RunView has chosen (a `ddpm-run` event on document)."""

    description = "The time machine shows the run chosen above it."

    def __init__(self, studio: Studio, **options):
        def time_look(query: dict) -> dict:
            return look(query)

        def time_act(query: dict) -> dict:
            return act(studio, query)

        super().__init__({}, server_functions=[time_look, time_act], **options)
