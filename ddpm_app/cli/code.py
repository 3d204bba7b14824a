"""python -m ddpm_app code: bits per dimension, rate and distortion of images.

Progressive coding (Ho et al. 2020, section 4.3): the image that a receiver can decode after each transmitted bit. All bits together are
the variational bound.
"""

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
from ddpm_app.evaluation.protocol import precision_of
from ddpm_app.files import check_target, plain, write_atomically
from ddpm_app.flags import add_flags, read_flags
from ddpm_app.images import render
from ddpm_app.images.datasets import load_data
from ddpm_app.images.decode import centre_crop, open_picture, to_array
from ddpm_app.studio.compression import LEVELS, VARIANCES, CodeRequest, caption, code, flow, lossless
from ddpm_app.studio.studio import MAX_BATCH, Studio

ANIMATIONS = {".gif": render.gif, ".webp": render.webp, ".mp4": render.mp4}
STRIP = 12  # states in a strip and in the printed table


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--image", default="", help="an image file, cropped and resized to the model's size (default: test images)")
    p.add_argument("--test", type=int, default=0, help="index of the first test image of the model's data (default 0)")
    p.add_argument("--n", type=int, default=1, help="test images; the curve is their mean (default 1)")
    add_flags(p, CodeRequest)
    p.add_argument("--flow", type=int, default=0, metavar="DRAWS", help="likelihood of the flow too, DRAWS times per image (default 0)")
    p.add_argument("--steps", type=int, default=50, help="Heun steps of the probability flow (default 50)")
    p.add_argument("--json", action="store_true", help="print JSON")
    add_shared_arguments(p, "FILE.json, FILE.png (a strip of decoded images), .gif, .webp, .mp4; several are accepted")


def add_shared_arguments(p: argparse.ArgumentParser, out_help: str) -> None:
    """Add --device, --precision and --out."""
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    p.add_argument("--precision", default="fp32", choices=("auto", "bf16", "fp32"), help="precision of matrix products (default fp32)")
    p.add_argument("--out", nargs="+", default=[], help=out_help)


def output_files(names: list[str], more: tuple[str, ...] = ()) -> list[Path]:
    """The files of --out. Raises ValueError for an ending that is not accepted. more: accepted endings besides images and animations."""
    accepted = (*ANIMATIONS, ".png", *more)
    for name in names:
        if Path(name).suffix not in accepted:
            raise ValueError(f"--out is {name}; files ending in {', '.join(accepted)} are accepted")
    for name in names:  # check before the work, which may take minutes
        check_target(Path(name))
    return [Path(n) for n in names]


def read_image(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (C, H, W): an image file, cropped and resized to `shape`."""
    return to_array(centre_crop(open_picture(path), shape[1], shape[0]))


def images_of_test_split(data_name: str, indices: list[int], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Test images, uint8 (n, C, H, W), and their labels, (n,). Raises ValueError for a bad index or another shape."""
    data = load_data(data_name, "test")
    for i in indices:
        if not 0 <= i < len(data):
            raise ValueError(f"the test image is {i}; {data.name} has 0 to {len(data) - 1}")
    if tuple(data.images.shape[1:]) != shape:
        raise ValueError(f"{data.name} has images {tuple(data.images.shape[1:])}; this model takes {shape}")
    return data.images[indices], data.labels[indices]


def run(args: argparse.Namespace) -> int:
    outputs = output_files(args.out, (".json",))
    if args.n < 1 or args.flow < 0 or args.steps < 1:
        raise ValueError(f"--n is {args.n}, --steps {args.steps}, --flow {args.flow}; at least 1, 1 and 0 are accepted")
    studio = Studio(device=args.device, precision=args.precision)
    checkpoint = studio.checkpoint(args.checkpoint or studio.default())
    config = checkpoint.config
    label = args.label or ("none" if args.image or not config.network.num_classes else "given")
    if args.image:
        if args.n > 1 or label == "given":
            raise ValueError("--image is one image; with it, --n is not accepted and --label is a class name, an index or none")
        images = torch.from_numpy(np.array(read_image(args.image, config.network.image_shape)))[None]
        given, what = None, Path(args.image).name
    else:
        images, given = images_of_test_split(config.data, list(range(args.test, args.test + args.n)), config.network.image_shape)
        what = f"{config.data} test, {args.test} to {args.test + args.n - 1}" if args.n > 1 else f"{config.data} test, {args.test}"
    request = CodeRequest(**{**read_flags(CodeRequest, args), "checkpoint": args.checkpoint or studio.default(), "label": label})
    runs, first_run = [], None
    for at in range(0, len(images), MAX_BATCH):
        part = dataclasses.replace(request, seed=request.seed + at)
        run = []
        # the seed of the first batch, so that all batches visit the same times
        for state in code(studio, part, images[at : at + MAX_BATCH], None if given is None else given[at : at + MAX_BATCH], request.seed):
            run.append(dataclasses.replace(state, x=state.x[:8].clone(), x0=state.x0[:8].clone()))
            if sys.stderr.isatty():
                print(f"\r{at + len(images[at : at + MAX_BATCH])}/{len(images)} images, t = {state.t}   ", end="", file=sys.stderr)
        first_run = first_run or run
        runs.append(run)
    rates = curve(runs)
    result = {"checkpoint": checkpoint.name, "images": what, **protocol(request, config, studio, rates)}
    result |= {"bits_per_dim": {k: getattr(rates, k) for k in ("L_T", "L_mid", "L_0", "total")}, "lossless": lossless(images)}
    if args.flow:
        result["flow"] = _flow(studio, request, images, given, args)
    result["curve"] = rates.to_dict()
    for out in outputs:
        if out.suffix == ".json":
            write_atomically(out, json.dumps(plain(result), indent=1))
        elif out.suffix == ".png":
            render.save_png(strip_of(first_run), out)
        else:
            dims = images[0].numel()
            write_atomically(out, ANIMATIONS[out.suffix](*moving(first_run, dims)))
    if args.json:
        print(json.dumps(plain(result), indent=1))
    else:
        print("\n".join(report(result, rates)))
        print("\n".join(str(o) for o in outputs), end="\n" if outputs else "")
    return 0


def protocol(request: CodeRequest, config, studio: Studio, rates: Curve) -> dict:
    """The settings that reproduce the numbers."""
    visited = len(rates.t) - 2
    return {
        "n": rates.n,
        "class": request.label,
        "levels": LEVELS[request.levels],
        "states": f"{visited} of {config.schedule.get('T', 1000) - 1} times t, each counted for its stretch",
        "variance": VARIANCES[request.variance],
        "decoder": "discrete, sqrt(beta_1)",
        "seed": request.seed,
        "precision": precision_of(studio),
        "images_seen": config.images_seen,
    }


def _flow(studio: Studio, request: CodeRequest, images: Tensor, given: Tensor | None, args: argparse.Namespace) -> dict:
    """Mean likelihood of the images under the probability flow, in bits per dimension, computed in batches."""
    batch = max(MAX_BATCH // 2 // args.flow, 1)
    parts = []
    for at in range(0, len(images), batch):
        part = dataclasses.replace(request, seed=request.seed + at)
        chunk, labels = images[at : at + batch], None if given is None else given[at : at + batch]
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


def report(result: dict, rates: Curve) -> list[str]:
    """The printed lines: rate and error at a few states, the bound and its terms, the likelihood of the flow."""
    lines = [f"{result['checkpoint']}, {result['images']}, class {result['class']}", "     t   bits/dim      bits   rmse of 255"]
    for k in _chosen(len(rates.t), STRIP):
        lines.append(f"{rates.t[k]:6d} {rates.rate[k]:10.4f} {rates.rate[k] * rates.dims:9,.0f} {rates.rmse[k]:13.2f}")
    b = result["bits_per_dim"]
    error = "" if np.isnan(rates.standard_error) else f" +- {rates.standard_error:.4f}"
    lines.append(f"bound {b['total']:.4f}{error} bits/dim = L_T {b['L_T']:.4f} + L_1..T-1 {b['L_mid']:.4f} + L_0 {b['L_0']:.4f}")
    if "flow" in result:
        f = result["flow"]
        error = "" if np.isnan(f["standard_error"]) else f" +- {f['standard_error']:.4f}"
        lines.append(f"flow  {f['bits']:.4f}{error} bits/dim, {f['draws']} draw{'s' if f['draws'] > 1 else ''} per image")
    lines.append("the same pixels as " + ", ".join(f"{k} {v:.2f}" for k, v in result["lossless"].items()) + " bits/dim, headers included")
    return lines


def _chosen(n: int, most: int) -> list[int]:
    """Indices of at most `most` + 1 evenly spaced states of n. The first is included, and the last two: before and after the pixels."""
    return sorted({round(k * (n - 1) / (most - 1)) for k in range(most)} | {max(n - 2, 0)}) if n > most else list(range(n))


def strip_of(states: list[State]) -> Image.Image:
    """Decoded images from few bits to all bits, one row per image (at most 8)."""
    picked = [states[k] for k in _chosen(len(states), STRIP)]
    rows = [s.x0[i] for i in range(len(states[0].x0)) for s in picked]
    return render.grid(torch.stack(rows), len(picked))


def moving(states: list[State], dims: int) -> tuple[list[Image.Image], float, int, list[str]]:
    """Frames, frames per second, side in pixels and captions. A frame shows the first image, what its bits so far decode to, and x_t."""
    original = states[-1].x0[0]
    frames = [render.strip(torch.stack([original, s.x0[0], s.x[0]])) for s in states]
    return frames, 8, 512, [caption(s, 0, dims) for s in states]
