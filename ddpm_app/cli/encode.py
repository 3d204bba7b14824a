"""python -m ddpm_app code | interpolate: the bits an image needs, and the way between two, without the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm_app.diffusion.coding import Curve, State, curve
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.files import check_target, plain, write_atomically
from ddpm_app.images import render
from ddpm_app.images.datasets import load_data
from ddpm_app.images.decode import centre_crop, open_picture, to_array
from ddpm_app.studio.compression import LEVELS, VARIANCES, CodeRequest, caption, class_index, code, flow, lossless, shape_of
from ddpm_app.studio.interpolate import WAYS, PathRequest, interpolate
from ddpm_app.studio.studio import MAX_BATCH, Studio

ANIMATIONS = {".gif": render.gif, ".webp": render.webp, ".mp4": render.mp4}
STRIP = 12  # states in a still strip


def add_parsers(commands) -> None:
    r = CodeRequest()
    about = (
        "Progressive coding (Ho et al. 2020, section 4.3): what a receiver knows after each bit; the bits add up to the variational bound."
    )
    p = commands.add_parser("code", help="bits per dimension, rate and distortion of images", description=about)
    p.add_argument("--checkpoint", default="", help="name in checkpoints/ or runs/ (default: the one the page opens with)")
    p.add_argument("--image", default="", help="a picture, cropped and resized to the model's size; otherwise test images are taken")
    p.add_argument("--test", type=int, default=0, help="index of the first test image of the model's data (default 0)")
    p.add_argument("--n", type=int, default=1, help="test images; the curve is their mean (default 1)")
    p.add_argument(
        "--label", default="", help='class: a name, an index, none, or given (the data\'s own; default "given", for --image none)'
    )
    p.add_argument("--states", type=int, default=r.states, help=f"noise levels visited; T - 1 or more takes all (default {r.states})")
    p.add_argument("--variance", default=r.variance, choices=tuple(VARIANCES), help="of the reverse step: beta_t or beta_tilde")
    p.add_argument("--levels", default=r.levels, choices=tuple(LEVELS), help="of the chain: the schedule's own, or equal steps of log-SNR")
    p.add_argument("--flow", type=int, default=0, metavar="DRAWS", help="the flow's likelihood too, this often an image (default 0: not)")
    p.add_argument("--steps", type=int, default=50, help="Heun steps of the flow (default 50)")
    p.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    _shared(p, r.seed, "FILE.json, FILE.png (a strip of decoded images), .gif, .webp, .mp4; several are accepted")
    p.set_defaults(run=run_code)

    q = PathRequest()
    p = commands.add_parser("interpolate", help="between two images or two seeds", description="A strip and an animation from end to end.")
    p.add_argument("--checkpoint", default="", help="name in checkpoints/ or runs/ (default: the one the page opens with)")
    p.add_argument(
        "--way", default=q.way, choices=tuple(WAYS), help="; ".join(f"{k}: {v}" for k, v in WAYS.items()) + f" (default {q.way})"
    )
    p.add_argument("--images", nargs=2, default=None, metavar=("A", "B"), help="two pictures")
    p.add_argument("--test", nargs=2, type=int, default=None, metavar=("I", "J"), help="or two test images of the model's data")
    p.add_argument(
        "--first", default="", help="class of the first end: a name, an index or none (default: the test image's own, else none)"
    )
    p.add_argument("--second", default="", help="class of the second end")
    p.add_argument("--t", type=int, default=q.t, help=f"of --way noise: how far both are noised, 1 to T (default {q.t})")
    p.add_argument("--seed-b", type=int, default=q.seed_b, help="second seed; equal to --seed, --way noise shares its noise (default 1)")
    p.add_argument("--frames", type=int, default=q.frames, help=f"images from end to end, 2 to {MAX_BATCH} (default {q.frames})")
    p.add_argument("--sampler", default=q.sampler, help=f"{', '.join(SAMPLERS)} (default {q.sampler})")
    p.add_argument("--evaluations", type=int, default=q.evaluations, help=f"of the way back; the way up as many (default {q.evaluations})")
    p.add_argument("--guidance", type=float, default=q.guidance, help="scale s of the way back, 1 is off (default 1)")
    p.add_argument("--json", action="store_true", help="the settings and the ends' errors as JSON on stdout")
    _shared(p, q.seed, "FILE.png (a strip), .gif, .webp, .mp4; several are accepted")
    p.set_defaults(run=run_interpolate)


def _shared(p: argparse.ArgumentParser, seed: int, kinds: str) -> None:
    p.add_argument("--seed", type=int, default=seed, help=f"default {seed}")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    p.add_argument("--precision", default="fp32", choices=("auto", "bf16", "fp32"), help="of matrix products (default fp32)")
    p.add_argument("--out", nargs="+", default=[], help=kinds)


def _outputs(names: list[str], more: tuple[str, ...] = ()) -> list[Path]:
    accepted = (*ANIMATIONS, ".png", *more)
    for name in names:
        if Path(name).suffix not in accepted:
            raise ValueError(f"--out is {name}; files ending in {', '.join(accepted)} are accepted")
    for name in names:  # before minutes of work, not after
        check_target(Path(name))
    return [Path(n) for n in names]


def _read(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    return to_array(centre_crop(open_picture(path), shape[1], shape[0]))


def _tests(data_name: str, indices: list[int], shape) -> tuple[Tensor, Tensor]:
    data = load_data(data_name, "test")
    for i in indices:
        if not 0 <= i < len(data):
            raise ValueError(f"test image {i} was asked for; {data.name} has 0 to {len(data) - 1}")
    if tuple(data.images.shape[1:]) != shape:
        raise ValueError(f"{data.name} has images {tuple(data.images.shape[1:])}; this model takes {shape}")
    return data.images[indices], data.labels[indices]


def run_code(args: argparse.Namespace) -> int:
    outputs = _outputs(args.out, (".json",))
    if args.n < 1 or args.flow < 0 or args.steps < 1:
        raise ValueError("--n and --steps are at least 1, --flow at least 0")
    studio = Studio(device=args.device, precision=args.precision)
    checkpoint = studio.checkpoint(args.checkpoint or studio.default())
    config = checkpoint.config
    label = args.label or ("none" if args.image or not config.network.num_classes else "given")
    if args.image:
        if args.n > 1 or label == "given":
            raise ValueError("--image is one picture: no --n, and its class is a name, an index or none")
        images, given, what = torch.from_numpy(np.array(_read(args.image, shape_of(config))))[None], None, Path(args.image).name
    else:
        images, given = _tests(config.data, list(range(args.test, args.test + args.n)), shape_of(config))
        what = f"{config.data} test, {args.test} to {args.test + args.n - 1}" if args.n > 1 else f"{config.data} test, {args.test}"
    request = CodeRequest(args.checkpoint or studio.default(), label, args.states, args.variance, args.levels, args.seed)
    runs, shown = [], None
    for at in range(0, len(images), MAX_BATCH):
        part = dataclasses.replace(request, seed=args.seed + at)
        run = []
        # the times are those of the first batch, so that all batches visit the same
        for state in code(studio, part, images[at : at + MAX_BATCH], None if given is None else given[at : at + MAX_BATCH], args.seed):
            run.append(dataclasses.replace(state, x=state.x[:8].clone(), x0=state.x0[:8].clone()))
            if sys.stderr.isatty():
                print(f"\r{at + len(images[at : at + MAX_BATCH])}/{len(images)} images, t = {state.t}   ", end="", file=sys.stderr)
        shown = shown or run
        runs.append(run)
    found = curve(runs)
    result = {"checkpoint": checkpoint.name, "images": what, **protocol(request, config, studio, found)}
    result |= {"bits_per_dim": {k: getattr(found, k) for k in ("L_T", "L_mid", "L_0", "total")}, "lossless": lossless(images)}
    if args.flow:
        result["flow"] = _flow(studio, request, images, given, args)
    result["curve"] = found.to_dict()
    for out in outputs:
        if out.suffix == ".json":
            write_atomically(out, json.dumps(plain(result), indent=1))
        elif out.suffix == ".png":
            render.save_png(strip_of(shown), out)
        else:
            dims = images[0].numel()
            write_atomically(out, ANIMATIONS[out.suffix](*moving(shown, dims)))
    if args.json:
        print(json.dumps(plain(result), indent=1))
    else:
        print("\n".join(report(result, found)))
        print("\n".join(str(o) for o in outputs), end="\n" if outputs else "")
    return 0


def protocol(request: CodeRequest, config, studio: Studio, found: Curve) -> dict:
    """How the numbers were made, for people who want them again."""
    visited = len(found.t) - 2
    return {
        "n": found.n,
        "class": request.label,
        "levels": LEVELS[request.levels],
        "states": f"{visited} of {config.schedule.get('T', 1000) - 1} times t, each counted for its stretch",
        "variance": VARIANCES[request.variance],
        "decoder": "discrete, sqrt(beta_1)",
        "seed": request.seed,
        "precision": str(studio.dtype).removeprefix("torch."),
        "images_seen": config.images_seen,
    }


def _flow(studio: Studio, request: CodeRequest, images: Tensor, given: Tensor | None, args: argparse.Namespace) -> dict:
    each = max(MAX_BATCH // 2 // args.flow, 1)
    parts = []
    for at in range(0, len(images), each):
        part = dataclasses.replace(request, seed=args.seed + at)
        chunk, labels = images[at : at + each], None if given is None else given[at : at + each]
        steps = flow(studio, part, chunk, labels, args.flow, args.steps)
        while True:
            try:
                share = next(steps)
            except StopIteration as end:
                parts.append((len(chunk), end.value))
                break
            if sys.stderr.isatty():
                print(f"\rflow {(at + share * len(chunk)) / len(images):.0%}   ", end="", file=sys.stderr)
    n = len(images)
    bits = sum(m * f.bits for m, f in parts) / n
    error = sum((m * f.standard_error) ** 2 for m, f in parts) ** 0.5 / n
    return {"bits": bits, "standard_error": error, "draws": args.flow, "evaluations": parts[0][1].evaluations}


def report(result: dict, found: Curve) -> list[str]:
    """The curve at a few states, and what it adds up to."""
    lines = [f"{result['checkpoint']}, {result['images']}, class {result['class']}", "     t   bits/dim      bits   rmse of 255"]
    for k in _chosen(len(found.t), STRIP):
        lines.append(f"{found.t[k]:6d} {found.rate[k]:10.4f} {found.rate[k] * found.dims:9,.0f} {found.rmse[k]:13.2f}")
    b = result["bits_per_dim"]
    error = "" if np.isnan(found.standard_error) else f" +- {found.standard_error:.4f}"
    lines.append(f"bound {b['total']:.4f}{error} bits/dim = L_T {b['L_T']:.4f} + L_1..T-1 {b['L_mid']:.4f} + L_0 {b['L_0']:.4f}")
    if "flow" in result:
        f = result["flow"]
        error = "" if np.isnan(f["standard_error"]) else f" +- {f['standard_error']:.4f}"
        lines.append(f"flow  {f['bits']:.4f}{error} bits/dim, {f['draws']} draw{'s' if f['draws'] > 1 else ''} an image")
    lines.append("the same pixels as " + ", ".join(f"{k} {v:.2f}" for k, v in result["lossless"].items()) + " bits/dim, headers included")
    return lines


def _chosen(n: int, most: int) -> list[int]:
    """Evenly chosen states, the first and the last two always: all but the pixels, and the pixels."""
    return sorted({round(k * (n - 1) / (most - 1)) for k in range(most)} | {max(n - 2, 0)}) if n > most else list(range(n))


def strip_of(states: list[State]) -> Image.Image:
    """Decoded images from few bits to all of them, one row an image (at most 8)."""
    picked = [states[k] for k in _chosen(len(states), STRIP)]
    rows = [s.x0[i] for i in range(len(states[0].x0)) for s in picked]
    return render.grid(torch.stack(rows), len(picked))


def moving(states: list[State], dims: int) -> tuple[list[Image.Image], float, int, list[str]]:
    """Frames, rate, side and captions of the first image: its pixels, what is decoded from the bits so far, x_t."""
    original = states[-1].x0[0]
    frames = [render.strip(torch.stack([original, s.x0[0], s.x[0]])) for s in states]
    return frames, 8, 512, [caption(s, 0, dims) for s in states]


def run_interpolate(args: argparse.Namespace) -> int:
    outputs = _outputs(args.out)
    if not outputs and not args.json:
        raise ValueError("--out names no file; FILE.png, .gif, .webp or .mp4 is accepted")
    studio = Studio(device=args.device, precision=args.precision)
    name = args.checkpoint or studio.default()
    config = studio.checkpoint(name).config
    first, second, pictures = args.first or "none", args.second or "none", None
    if args.way == "seeds":
        if args.images or args.test:
            raise ValueError("--way seeds needs no images; --way ode or --way noise takes them")
    elif args.images and args.test:
        raise ValueError("--images A B and --test I J each name the two images; give one of them")
    elif args.images:
        pictures = torch.from_numpy(np.stack([_read(path, shape_of(config)) for path in args.images]))
    elif args.test:
        pictures, labels = _tests(config.data, args.test, shape_of(config))
        if config.network.num_classes:
            first, second = args.first or str(int(labels[0])), args.second or str(int(labels[1]))
    else:
        raise ValueError(f"--way {args.way} needs two images: --images A B or --test I J")
    fields = ("way", "guidance", "frames", "sampler", "evaluations", "t", "seed", "seed_b")
    request = PathRequest(checkpoint=name, first=first, second=second, **{k: getattr(args, k) for k in fields})
    end = None
    for end in interpolate(studio, request, pictures):
        if sys.stderr.isatty():
            print(f"\r{end.phase} {end.i}/{end.n}   ", end="", file=sys.stderr)
    images = torch.from_numpy(end.images)
    for out in outputs:
        if out.suffix == ".png":
            render.save_png(render.strip(images if pictures is None else torch.cat([pictures[:1], images, pictures[1:]])), out)
        else:
            frames = [render.strip(image[None]) for image in images]
            captions = [f"{w:.2f}" for w in request.weights.tolist()]
            write_atomically(out, ANIMATIONS[out.suffix](frames, 12, 384, captions))
    said = {**dataclasses.asdict(request), "error": end.error, "classes": [class_index(studio, config, k) for k in (first, second)]}
    if args.json:
        print(json.dumps(plain(said), indent=1))
    else:
        back = "" if end.error is None else f"; the ends come back to {end.error[0]:.2f} and {end.error[1]:.2f} grey levels (rms)"
        print(f"{', '.join(map(str, outputs))}: {len(images)} images, {WAYS[args.way]}{back}")
    return 0
