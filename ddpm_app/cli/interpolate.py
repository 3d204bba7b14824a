"""python -m ddpm_app interpolate: images between two images or two seeds, as a strip and an animation."""

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
from ddpm_app.studio.compression import class_index, shape_of
from ddpm_app.studio.interpolate import WAYS, PathRequest, interpolate
from ddpm_app.studio.studio import Studio


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--images", nargs=2, default=None, metavar=("A", "B"), help="two image files")
    p.add_argument("--test", nargs=2, type=int, default=None, metavar=("I", "J"), help="or two test images of the model's data")
    add_flags(p, PathRequest)
    p.add_argument("--json", action="store_true", help="the settings and the ends' errors as JSON on stdout")
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
            raise ValueError("--way seeds needs no images; --way ode or --way noise takes them")
    elif args.images and args.test:
        raise ValueError("--images A B and --test I J each name the two images; give one of them")
    elif args.images:
        pictures = torch.from_numpy(np.stack([read_image(path, shape_of(config)) for path in args.images]))
    elif args.test:
        pictures, labels = images_of_test_split(config.data, args.test, shape_of(config))
        if config.network.num_classes:
            first, second = args.first or str(int(labels[0])), args.second or str(int(labels[1]))
    else:
        raise ValueError(f"--way {way} needs two images: --images A B or --test I J")
    request = PathRequest(**{**read_flags(PathRequest, args), "checkpoint": name, "first": first, "second": second})
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
    result = {**dataclasses.asdict(request), "error": end.error, "classes": [class_index(studio, config, k) for k in (first, second)]}
    if args.json:
        print(json.dumps(plain(result), indent=1))
    else:
        back = "" if end.error is None else f"; the ends come back to {end.error[0]:.2f} and {end.error[1]:.2f} grey levels (rms)"
        print(f"{', '.join(map(str, outputs))}: {len(images)} images, {WAYS[way]}{back}")
    return 0
