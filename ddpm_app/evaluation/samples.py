"""Samples of a checkpoint on disk, batch by batch: sampling can stop after any batch and continue later.

A file holds a batch: the raw pixels, then their SHA-256. Its name says which images it holds. The folder's name is a hash of everything
that decides the pixels, but not of n: a request with another n uses the same samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.files import write_atomically
from ddpm_app.images.datasets import load_data
from ddpm_app.images.sets import Images, Progress
from ddpm_app.paths import cache_dir
from ddpm_app.studio.studio import MAX_BATCH, Request, Studio
from ddpm_app.training.distributed import World

MOST_BYTES = 4 * 2**30  # of stored samples and features together; the longest unused are removed first


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights' files, the network, the schedule and the prediction type, as hexadecimal digits."""
    config = dataclasses.asdict(checkpoint.config)
    h = hashlib.sha256(json.dumps([config[k] for k in ("network", "schedule", "prediction_type")], sort_keys=True).encode())
    for file in sorted(checkpoint.path.glob("weights*.safetensors")):
        h.update(file.read_bytes())
    return h.hexdigest()


def batch_of(studio: Studio) -> int:
    """Images denoised at once. More on CUDA: with few images, launching the kernels takes longer than running them."""
    return 8 * MAX_BATCH if studio.device.type == "cuda" else MAX_BATCH


def folder_of(studio: Studio, request: Request, checkpoint: Checkpoint, labels: np.ndarray | None = None) -> Path:
    """The folder of a request's samples. It does not depend on n, because image i does not. labels: see sampled."""
    settings = {k: v for k, v in dataclasses.asdict(request).items() if k not in ("n", "checkpoint")}
    if labels is not None:
        settings["label"] = hashlib.sha256(labels.tobytes()).hexdigest()
    settings |= {
        "weights": weights_digest(checkpoint),
        "precision": str(studio.dtype),
        "device": studio.device.type,
        "batch": batch_of(studio),
    }
    if backend := getattr(studio.sampling_denoiser(checkpoint).network, "precision", ""):
        settings["backend"] = backend
    return cache_dir("evaluation") / "samples" / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def sampled(
    studio: Studio, request: Request, what: str = "sampling", labels: np.ndarray | None = None, share: tuple[int, int] = (0, 1)
) -> Iterator[Progress]:
    """Yield Progress at every step; return (Images, labels (n,) int64, -1 for none). Closing the generator loses only the present batch.

    labels: (n,) int64 in place of request.label. share: (rank, size) makes every size-th batch, starting with batch number rank; other
    processes make the others (distributed.py). Raises ValueError for a network that gives infinities or NaN."""
    checkpoint = studio.checkpoint(request.checkpoint)
    config = checkpoint.config
    folder = folder_of(studio, request, checkpoint, labels)
    labels = studio.labels(request, config.classes if config.network.num_classes else ()) if labels is None else labels
    shape = config.network.image_shape
    size, batch = int(np.prod(shape)), batch_of(studio)
    make_room(folder)
    for at in range(0, request.n, batch):
        count = min(batch, request.n - at)
        file = _file(folder, at, count)
        if at // batch % share[1] == share[0] and not _complete(file, count * size):
            part = dataclasses.replace(request, n=count, seed=request.seed + at)
            frame = None
            for frame in studio.sample(part, labels=labels[at : at + count], most=batch):
                if not frame.done:
                    yield Progress(what, at, request.n)
            pixels = frame.x.tobytes()
            write_atomically(file, pixels + hashlib.sha256(pixels).digest())
        yield Progress(what, at + count, request.n)
    return stored(folder, request.n, shape, batch), torch.from_numpy(labels)


def sample_share(studio: Studio, requests: list[Request], world: World, labels: np.ndarray | None = None) -> None:
    """Sample this process's share of the requests where there are several processes. labels: see sampled."""
    if world.size > 1:
        for request in requests:
            for _ in sampled(studio, request, labels=labels, share=(world.rank, world.size)):
                pass


def _file(folder: Path, at: int, count: int) -> Path:
    return folder / f"{at:07d}+{count}.u8"


def _complete(file: Path, size: int) -> bool:
    """Whether the file holds `size` bytes and their SHA-256. After a power cut a file can have the right length and wrong content."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return len(content) == size + 32 and hashlib.sha256(content[:size]).digest() == content[size:]


def stored(folder: Path, n: int, shape: tuple[int, int, int], batch: int = MAX_BATCH) -> Images:
    """The first n samples of a folder with `batch` samples in a file. Files are read when images are used."""

    def part(a: int, b: int) -> Tensor:
        pieces = []
        for at in range(a // batch * batch, b, batch):
            count = min(batch, n - at)
            pixels = torch.from_numpy(np.fromfile(_file(folder, at, count), np.uint8, int(np.prod((count, *shape))))).view(count, *shape)
            pieces.append(pixels[max(a - at, 0) : b - at])
        return torch.cat(pieces)

    return Images(n, shape, part)


def samples_of(studio: Studio, request: Request) -> Images:
    """The samples of a request that sampled() has made."""
    checkpoint = studio.checkpoint(request.checkpoint)
    return stored(folder_of(studio, request, checkpoint), request.n, checkpoint.config.network.image_shape, batch_of(studio))


def make_room(keep: Path, most: int = MOST_BYTES) -> None:
    """Remove the longest unused samples and features until at most `most` bytes of them are left. keep: a folder that stays."""
    keep.mkdir(parents=True, exist_ok=True)
    os.utime(keep)
    places = [p for folder in ("samples", "features") for p in (cache_dir("evaluation") / folder).glob("*")]
    sizes = {p: sum(f.lstat().st_size for f in (p.iterdir() if p.is_dir() else [p]) if f.exists()) for p in places if p.exists()}
    total = sum(sizes.values())
    for place in sorted(sizes, key=lambda p: p.stat().st_mtime):
        if total <= most:
            return
        if place != keep:
            total -= sizes[place]
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def load_images(source: str, channels: int = 0, classes: tuple[str, ...] = ()) -> tuple[Images, Tensor]:
    """Images of an .npz (arr_0, and arr_1 with -1 for no class) or of a folder, with their labels; nothing is resized.

    channels: 1 reads grey pictures that are stored as colour as grey. classes: the classes of the labels. A sub-folder's name is a class
    or its number; images in other sub-folders have no class. Raises ValueError for images that cannot be read or have different sizes."""
    path = Path(source).expanduser()
    data = load_data(str(path), image_size=_side(path) if path.is_dir() else None, unlabelled=True)
    images = data.images
    if channels == 1 and images.shape[1] == 3 and bool((images == images[:, :1]).all()):
        images = images[:, :1]
    labels = data.labels
    if classes and path.is_dir() and int(labels.max()) >= 0:
        known = {str(k): k for k in range(len(classes))} | {name.lower(): k for k, name in enumerate(classes)}
        labels = torch.tensor([known.get(name.lower(), -1) for name in data.classes])[labels]
        if unknown := [name for name in data.classes if name.lower() not in known]:
            names = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
            logging.getLogger(__name__).warning("%s: no class is called %s; these images have no class", source, names)
    return Images.from_tensor(images), labels


def _side(folder: Path) -> int:
    """The side of a folder's pictures in pixels. Raises ValueError if they differ or are not square: resized pictures are not measured."""
    from ddpm_app.images.decode import IMAGE_SUFFIXES, PictureError, open_picture

    sizes = set()
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES):
        try:
            sizes.add(open_picture(file).size)
        except PictureError:
            continue  # load_data reports it
        if len(sizes) > 1:
            raise ValueError(
                f"{folder}: its pictures have different sizes ({' and '.join(f'{w}x{h}' for w, h in sorted(sizes))}); one size is needed"
            )
    if not sizes:
        raise ValueError(f"{folder}: no readable image in it")
    w, h = sizes.pop()
    if w != h:
        raise ValueError(f"{folder}: its pictures are {w}x{h}; square pictures are needed")
    return w
