"""python -m ddpm_app runs: list, watch, pause, stop, resume and delete training runs; average their weights anew
(ema); sample their snapshots from the same noise and judge them (history)."""

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
    p.add_argument("name", nargs="?", help="which run; watch without one takes the newest")
    p.add_argument("--json", action="store_true", help="as JSON; watch prints a line a change")
    g = p.add_argument_group("ema", "without --length it lists what is stored")
    g.add_argument("--length", help="EMA length as a share of the run, 0.01 to 0.28; raw; or, with --keep, own: the run's own EMA")
    g.add_argument("--snapshot", default="", help="name of the snapshot, which is its images seen (default: the last)")
    g.add_argument("--out", help="directory for the averaged checkpoint")
    g.add_argument("--keep", action="store_true", help="make it the run's checkpoint")
    g = p.add_argument_group("history", "pictures and the table stay in the run's folder, history/; what is there is not made again")
    g.add_argument("--weights", default="own", help="own (the run's EMA), raw, or an EMA length such as 0.08 (default own)")
    g.add_argument("--animation", help="FILE.webp, FILE.gif or FILE.mp4: the same noise through the run's snapshots")
    g.add_argument("--table", action="store_true", help="judge the snapshots at 10 %%, 30 %% and 100 %% of the budget")
    g.add_argument("--n", type=int, default=200, help="samples a row of the table (default 200)")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def line(f: dict) -> str:
    loss = "" if f["loss"] is None else f"loss {f['loss']:.4f}"
    held = "" if f["validation_loss"] is None else f"validation {f['validation_loss']:.4f}"
    return f"{f['name']:28} {f['status']:11} {f['progress']:6.1%} {f['images']:>10} images  {loss:12} {held:18} {f['message']}".rstrip()


def run(args: argparse.Namespace) -> int:
    if args.verb == "list":
        found = [facts(r) for r in ([runs.find(args.name)] if args.name else runs.runs())]
        print(json.dumps(found, indent=1) if args.json else "\n".join(map(line, found)) or f"no runs in {runs_dir()}")
        return 0
    if args.verb == "watch":
        newest = runs.runs()
        if not args.name and not newest:
            raise ValueError(f"no runs in {runs_dir()}")
        return watch(runs.find(args.name) if args.name else newest[0], args.json)
    if not args.name:
        raise ValueError(f"runs {args.verb} needs the name of a run; there are: {', '.join(r.name for r in runs.runs()) or 'none'}")
    chosen = runs.find(args.name)
    if args.verb == "ema":
        return ema(chosen, args)
    if args.verb == "history":
        return past(chosen, args)
    place = getattr(chosen, args.verb)()
    if args.verb == "stop":
        chosen.wait("stopped")
    if place:
        print(json.dumps({"name": chosen.name, "moved_to": str(place)}) if args.json else f"{chosen.name}: moved to {place}")
    else:
        print(json.dumps(facts(chosen)) if args.json else line(facts(chosen)))
    return 0


def ema(run: runs.Run, args: argparse.Namespace) -> int:
    """Any EMA length from what the run's snapshots hold: to a directory, or as the run's checkpoint."""
    from ddpm_app.training import posthoc_ema

    if args.length is None:
        if args.keep or args.out:
            raise ValueError("runs ema needs --length: a share of the run, 0.01 to 0.28, or raw")
        places = posthoc_ema.stored(run.folder)
        lengths = sorted({p.length for p in places if p.length != posthoc_ema.RAW})
        steps = sorted({p.step for p in places})
        told = {"name": run.name, "snapshots": len(steps), "steps": steps, "lengths": lengths}
        text = f"{run.name}: lengths {', '.join(f'{a:g}' for a in lengths)} and raw at {len(steps)} snapshots" if steps else ""
        print(json.dumps(told) if args.json else text or f"{run.name}: no averages stored")
        return 0
    try:
        length = args.length if args.length in (posthoc_ema.RAW, posthoc_ema.OWN) else float(args.length)
    except ValueError:
        raise ValueError(f"--length is {args.length[:40]!r}; a share of the run, 0.01 to 0.28, raw or own") from None
    if args.keep == bool(args.out):
        raise ValueError("give either --out, a directory for the averaged checkpoint, or --keep")
    if length == posthoc_ema.OWN and not args.keep:
        raise ValueError("the run's own EMA at a snapshot is a checkpoint already: copy its folder, or --keep it as the run's")
    if args.keep:
        average, place = posthoc_ema.keep(run, length, args.snapshot), run.folder
    else:
        place = Path(args.out)
        if place.exists() and any(place.iterdir()):
            raise ValueError(f"{place} exists and is not empty; give a new directory, or --keep for the run's own")
        average = posthoc_ema.write(run.folder, length, place, args.snapshot)
    told = {"length": average.length, "step": average.step, "images": average.images, "profile_error": average.error}
    print(json.dumps({**told, "used": average.used, "folder": str(place)}) if args.json else f"{place}: {average.describe()}")
    return 0


def past(run: runs.Run, args: argparse.Namespace) -> int:
    """Sample the snapshots from the same noise, animate them, judge them."""
    from ddpm_app.evaluation import snapshots
    from ddpm_app.files import write_atomically
    from ddpm_app.studio.studio import Studio

    if args.n < 2:
        raise ValueError(f"--n is {args.n}; at least 2 samples are needed")
    weights = snapshots.weights_of(snapshots.name_of(args.weights))
    file = Path(args.animation) if args.animation else None
    if file is not None and file.suffix not in (".webp", ".gif", ".mp4"):
        raise ValueError(f"--animation is {args.animation[:80]}; FILE.webp, FILE.gif or FILE.mp4 is accepted")
    studio = Studio(device=args.device)
    tell = sys.stderr.isatty()
    if args.table:
        for event in snapshots.fill(studio, run, args.n):
            if tell:
                print(f"\r{event['done'] / event['total']:4.0%} {event['what']:60.60}", end="", file=sys.stderr)
    if file is not None or not args.table:
        for done, total in snapshots.draw(studio, run, weights):
            if tell:
                print(f"\r{done / total:4.0%}", end="", file=sys.stderr)
    if file is not None:
        write_atomically(file, snapshots.animation(run, file.suffix[1:], weights))
    rows = [snapshots.short(r) for r in snapshots.table(run)]
    places = snapshots.frames(run, weights)
    if args.json:
        told = {"name": run.name, "weights": str(weights), "grids": [str(p) for p in places.values()], "table": rows}
        print(json.dumps(told | ({"animation": str(file)} if file else {}), indent=1))
        return 0
    for k in places:
        m = snapshots.moment(run, k)
        print(f"{snapshots.caption(m)}" + (f" · validation {m.validation:.4f}" if m.validation is not None else ""))
    for r in rows:
        print(table_line(r))
    print(f"{file or run.folder / 'history'}: {len(places)} grids")
    return 0


def table_line(r: dict) -> str:
    def number(key: str, form: str = ".3f") -> str:
        return "-" if r[key] is None else format(r[key], form)

    parts = [f"{r['share']:4.0%}", f"read as asked {number('agreement')}", f"confidence {number('confidence')}"]
    parts += [f"classes from uniform {number('uneven')}", f"{r['distance_name'] or 'distance'} {number('distance', '.4g')}"]
    parts += [f"CLIP {number('clip')}"] if r["clip"] is not None else []
    return "  ".join(parts) + "".join(f"\n      {line}" for line in r["refused"] or [])


def watch(run: runs.Run, as_json: bool) -> int:
    """A line whenever something changed, until the run ends; Ctrl-C leaves the run alone."""
    before = None
    while True:
        now = facts(run)
        if (now["status"], now["step"], now["validation_loss"]) != before:
            before = (now["status"], now["step"], now["validation_loss"])
            print(json.dumps(now) if as_json else line(now), flush=True)
        if now["status"] not in runs.LIVE:
            if now["status"] == "failed":
                print(run.last_output(), file=sys.stderr)
            return 0
        time.sleep(0.5)
