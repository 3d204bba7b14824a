"""python -m ddpm_app runs: list, watch, pause, stop, resume and delete training runs.

ema:     make a checkpoint with another EMA length from a run's snapshots
history: sample a run's snapshots from the same noise and measure the samples
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ddpm_app.paths import runs_dir
from ddpm_app.training import runs
from ddpm_app.training.runs import facts

VERBS = ("list", "watch", "pause", "stop", "resume", "delete", "ema", "history")


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("verb", nargs="?", default="list", choices=VERBS, help="what to do (default list)")
    p.add_argument("name", nargs="?", help="name of the run (default of watch: the newest)")
    p.add_argument("--json", action="store_true", help="print JSON; watch prints one line per change")
    g = p.add_argument_group("ema", "without --length: list the stored averages")
    g.add_argument("--length", help="EMA length as a share of the run, 0.01 to 0.28; raw: no EMA; own: the training's (only with --keep)")
    g.add_argument("--snapshot", default="", help="name of the snapshot, its number of images seen (default: the last)")
    g.add_argument("--out", help="directory for the averaged checkpoint")
    g.add_argument("--keep", action="store_true", help="replace the run's checkpoint with the averaged one")
    g = p.add_argument_group("history", "images and the table are stored in the run's folder history/ and are made only once")
    g.add_argument("--weights", default="own", help="own: the training's EMA; raw: no average; or an EMA length such as 0.08 (default own)")
    g.add_argument("--animation", help="FILE.webp, FILE.gif or FILE.mp4: samples of each snapshot from the same noise")
    g.add_argument("--table", action="store_true", help="measure the snapshots at 10 %%, 30 %% and 100 %% of the budget")
    g.add_argument("--n", type=int, default=200, help="samples per row of the table (default 200)")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def line(f: dict) -> str:
    """One line about a run. f: its facts."""
    loss = "" if f["loss"] is None else f"loss {f['loss']:.4f}"
    validation = "" if f["validation_loss"] is None else f"validation {f['validation_loss']:.4f}"
    head = f"{f['name']:28} {f['status']:11} {f['progress']:6.1%} {f['images']:>10} images"
    return f"{head}  {loss:12} {validation:18} {f['message']}".rstrip()


def run(args: argparse.Namespace) -> int:
    if args.verb == "list":
        listed = [facts(r) for r in ([runs.find(args.name)] if args.name else runs.runs())]
        print(json.dumps(listed, indent=1) if args.json else "\n".join(map(line, listed)) or f"no runs in {runs_dir()}")
        return 0
    if args.verb == "watch":
        newest = runs.runs()
        if not args.name and not newest:
            raise ValueError(f"no runs in {runs_dir()}")
        return watch(runs.find(args.name) if args.name else newest[0], args.json)
    if not args.name:
        raise ValueError(f"runs {args.verb} needs the name of a run; the runs are: {', '.join(r.name for r in runs.runs()) or 'none'}")
    selected = runs.find(args.name)
    if args.verb == "ema":
        return ema(selected, args)
    if args.verb == "history":
        return history(selected, args)
    moved_to = getattr(selected, args.verb)()
    if args.verb == "stop":
        selected.wait("stopped")
    if moved_to:
        print(json.dumps({"name": selected.name, "moved_to": str(moved_to)}) if args.json else f"{selected.name}: moved to {moved_to}")
    else:
        print(json.dumps(facts(selected)) if args.json else line(facts(selected)))
    return 0


def ema(run: runs.Run, args: argparse.Namespace) -> int:
    """List the stored averages, or make a checkpoint of any EMA length from them: in a directory, or as the run's checkpoint."""
    from ddpm_app.training import posthoc_ema

    if args.length is None:
        if args.keep or args.out:
            raise ValueError("--length is missing; a share of the run, 0.01 to 0.28, raw or own is accepted")
        averages = posthoc_ema.stored(run.folder)
        lengths = sorted({p.length for p in averages if p.length != posthoc_ema.RAW})
        steps = sorted({p.step for p in averages})
        summary = {"name": run.name, "snapshots": len(steps), "steps": steps, "lengths": lengths}
        text = f"{run.name}: lengths {', '.join(f'{a:g}' for a in lengths)} and raw at {len(steps)} snapshots" if steps else ""
        print(json.dumps(summary) if args.json else text or f"{run.name}: no averages stored")
        return 0
    try:
        length = args.length if args.length in (posthoc_ema.RAW, posthoc_ema.OWN) else float(args.length)
    except ValueError:
        raise ValueError(f"--length is {args.length[:40]!r}; a share of the run, 0.01 to 0.28, raw or own") from None
    if args.keep == bool(args.out):
        raise ValueError("give either --out with a directory for the averaged checkpoint, or --keep")
    if length == posthoc_ema.OWN and not args.keep:
        raise ValueError("--length own is accepted only with --keep; each snapshot folder already is a checkpoint with this EMA")
    if args.keep:
        average, folder = posthoc_ema.keep(run, length, args.snapshot), run.folder
    else:
        folder = Path(args.out)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} exists and is not empty; give a new directory, or --keep to replace the run's checkpoint")
        average = posthoc_ema.write(run.folder, length, folder, args.snapshot)
    result = {"length": average.length, "step": average.step, "images": average.images, "profile_error": average.error}
    print(json.dumps({**result, "used": average.used, "folder": str(folder)}) if args.json else f"{folder}: {average.describe()}")
    return 0


def history(run: runs.Run, args: argparse.Namespace) -> int:
    """Sample the snapshots from the same noise, write an animation, and measure the samples."""
    from ddpm_app.evaluation import snapshots
    from ddpm_app.files import write_atomically
    from ddpm_app.studio.studio import Studio

    if args.n < 2:
        raise ValueError(f"--n is {args.n}; at least 2 samples are needed")
    weights = snapshots.weights_of(snapshots.name_of(args.weights))
    file = Path(args.animation) if args.animation else None
    if file is not None and file.suffix not in (".webp", ".gif", ".mp4"):
        raise ValueError(f"--animation is {args.animation[:80]}; FILE.webp, FILE.gif or FILE.mp4 is accepted")
    studio = Studio(device=args.device, backend="torch")
    terminal = sys.stderr.isatty()
    if args.table:
        for event in snapshots.fill(studio, run, args.n):
            if terminal:
                print(f"\r{event['done'] / event['total']:4.0%} {event['what']:60.60}", end="", file=sys.stderr)
    if file is not None or not args.table:
        for done, total in snapshots.draw(studio, run, weights):
            if terminal:
                print(f"\r{done / total:4.0%}", end="", file=sys.stderr)
    if file is not None:
        write_atomically(file, snapshots.animation(run, file.suffix[1:], weights))
    rows = [snapshots.short(r) for r in snapshots.table(run)]
    grids = snapshots.frames(run, weights)
    if args.json:
        result = {"name": run.name, "weights": str(weights), "grids": [str(p) for p in grids.values()], "table": rows}
        print(json.dumps(result | ({"animation": str(file)} if file else {}), indent=1))
        return 0
    for k in grids:
        m = snapshots.moment(run, k)
        print(f"{snapshots.caption(m)}" + (f" · validation {m.validation:.4f}" if m.validation is not None else ""))
    for r in rows:
        print(table_line(r))
    print(f"{file or run.folder / 'history'}: {len(grids)} grids")
    return 0


def table_line(r: dict) -> str:
    """A row of the table as text; the reasons for missing numbers follow, one a line."""

    def number(key: str, form: str = ".3f") -> str:
        return "-" if r[key] is None else format(r[key], form)

    parts = [f"{r['share']:4.0%}", f"agreement {number('agreement')}", f"confidence {number('confidence')}"]
    parts += [f"class distance from uniform {number('uneven')}", f"{r['distance_name'] or 'distance'} {number('distance', '.4g')}"]
    parts += [f"CLIP {number('clip')}"] if r["clip"] is not None else []
    return "  ".join(parts) + "".join(f"\n      {line}" for line in r["refused"] or [])


def watch(run: runs.Run, as_json: bool) -> int:
    """Print a line after every change until the run ends. Ctrl-C ends only the watching."""
    previous = None
    while True:
        now = facts(run)
        if (now["status"], now["step"], now["validation_loss"]) != previous:
            previous = (now["status"], now["step"], now["validation_loss"])
            print(json.dumps(now) if as_json else line(now), flush=True)
        if now["status"] not in runs.LIVE:
            if now["status"] == "failed":
                print(run.last_output(), file=sys.stderr)
            return 0
        time.sleep(0.5)
