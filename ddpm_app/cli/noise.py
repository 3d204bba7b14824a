"""python -m ddpm_app noise: add noise to an image; writes a grid of x_t with one row per schedule."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ddpm_app.diffusion.schedules import SCHEDULES, make_schedule
from ddpm_app.files import check_target
from ddpm_app.flags import check_choice
from ddpm_app.images import render
from ddpm_app.images.decode import centre_crop, open_picture, to_array
from ddpm_app.studio.forward import forward_process


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--image", required=True, help="PNG, JPEG, WebP, GIF, BMP or TIFF; centre-cropped to a square")
    p.add_argument(
        "--schedule", default="linear", help=f"one or more schedules, separated by commas: {', '.join(SCHEDULES)} (default linear)"
    )
    p.add_argument("--T", type=int, default=1000, help="steps of the schedule (default 1000)")
    p.add_argument("--t", default="", help="times t, separated by commas, such as 0,250,500 (default: ten from 0 to T)")
    p.add_argument("--size", type=int, default=32, help="side in pixels (default 32)")
    p.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    p.add_argument("--out", required=True, help="FILE.png")


def run(args: argparse.Namespace) -> int:
    if not 4 <= args.size <= 512:
        raise ValueError(f"--size is {args.size}; 4 to 512 pixels are accepted")
    if Path(args.out).suffix != ".png":
        raise ValueError(f"--out is {args.out}; FILE.png is accepted")
    check_target(Path(args.out))
    names = [check_choice("schedule", name.strip(), SCHEDULES) for name in args.schedule.split(",")]
    try:
        times = [int(t) for t in args.t.split(",")] if args.t else [round(k * args.T / 9) for k in range(10)]
    except ValueError:
        raise ValueError(f"--t is {args.t!r}; whole numbers separated by commas are accepted") from None
    picture = to_array(centre_crop(open_picture(args.image), args.size))
    rows = [torch.from_numpy(forward_process(picture, make_schedule(name, args.T), times, args.seed)[0]) for name in names]
    render.save_png(render.grid(torch.cat(rows), len(times)), Path(args.out))
    print(f"{args.out}: t = {', '.join(map(str, times))}; rows: {', '.join(names)}")
    return 0
