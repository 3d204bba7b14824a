"""python -m ddpm_app interpolate: interpolate between two images or two seeds; writes a strip or an animation."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

import numpy as np
import torch

from ddpm_app.cli.code import ANIMATIONS, add_shared_arguments, images_of_test_split, output_files, read_image
from ddpm_app.files import plain, write_atomically
from ddpm_app.flags import add_flags, read_flags
from ddpm_app.images import render
from ddpm_app.studio.interpolate import WAYS, PathRequest, interpolate
from ddpm_app.studio.studio import Studio


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--images", nargs=2, default=None, metavar=("A", "B"), help="two image files")
    p.add_argument(
        "--test",
        nargs=2,
        type=int,
        default=None,
        metavar=("I", "J"),
        help="instead of --images: indices of two test images of the model's data",
    )
    add_flags(p, PathRequest)
    p.add_argument("--json", action="store_true", help="print the settings and the errors of the two ends as JSON")
    add_shared_arguments(p, "FILE.png (a strip), .gif, .webp, .mp4; several are accepted")


def run(args: argparse.Namespace) -> int:
    outputs = output_files(args.out)
    if not outputs and not args.json:
        raise ValueError("--out names no file; FILE.png, .gif, .webp or .mp4 is accepted")
    studio = Studio(device=args.device, precision=args.precision)
    name = args.checkpoint or studio.default()
    config = studio.checkpoint(name).config
    first, second, pictures = args.first or "none", args.second or "none", None
    way = args.way or PathRequest.way
    if way == "seeds":
        if args.images or args.test:
            raise ValueError("--way seeds accepts no images; --way ode and --way noise take two")
    elif args.images and args.test:
        raise ValueError("--images and --test are both given; only one of them is accepted")
    elif args.images:
        pictures = torch.from_numpy(np.stack([read_image(path, config.network.image_shape) for path in args.images]))
    elif args.test:
        pictures, labels = images_of_test_split(config.data, args.test, config.network.image_shape)
        if config.network.num_classes:
            first, second = args.first or str(int(labels[0])), args.second or str(int(labels[1]))
    else:
        raise ValueError(f"--way {way} needs two images: --images A B or --test I J")
    request = PathRequest(**{**read_flags(PathRequest, args), "checkpoint": name, "first": first, "second": second})
    state = None
    for state in interpolate(studio, request, pictures):
        if sys.stderr.isatty():
            print(f"\r{state.phase} {state.i}/{state.n}   ", end="", file=sys.stderr)
    images = torch.from_numpy(state.images)
    for out in outputs:
        if out.suffix == ".png":
            render.save_png(render.strip(images if pictures is None else torch.cat([pictures[:1], images, pictures[1:]])), out)
        else:
            frames = [render.strip(image[None]) for image in images]
            captions = [f"{w:.2f}" for w in request.weights.tolist()]
            write_atomically(out, ANIMATIONS[out.suffix](frames, 12, 384, captions))
    result = {**dataclasses.asdict(request), "error": state.error, "classes": [studio.class_index(config, k) for k in (first, second)]}
    if args.json:
        print(json.dumps(plain(result), indent=1))
    else:
        errors = (
            ""
            if state.error is None
            else f"; root mean squared errors of the ends: {state.error[0]:.2f} and {state.error[1]:.2f} grey levels"
        )
        print(f"{', '.join(map(str, outputs))}: {len(images)} images, {WAYS[way]}{errors}")
    return 0
