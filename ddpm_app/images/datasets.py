"""Image data sets as uint8 tensors in memory: named sets, .npz files and folders of images."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app import paths
from ddpm_app.images.decode import IMAGE_SUFFIXES, PictureError, centre_crop, open_picture

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MNIST_CLASSES = tuple("0123456789")
KNOWN = {"mnist": MNIST_CLASSES, "cifar10": CIFAR10_CLASSES, "digits": MNIST_CLASSES}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}  # of the named sets
GLYPHS = ("mnist", "digits")  # data sets of characters, which are never mirrored
MAX_CLASSES = 10_000  # of a data set without class names


@dataclass(frozen=True)
class ImageData:
    """A data set.

    name: its short name
    images: (N, C, H, W) uint8
    labels: (N,) int64, -1 for no class
    classes: the name of each label
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor) -> ImageData:
        return ImageData(self.name, self.images[index], self.labels[index], self.classes)

    def to(self, device) -> ImageData:
        return ImageData(self.name, self.images.to(device), self.labels.to(device), self.classes)


def split(data: ImageData, seed: int = 0, validation: float = 0.1) -> tuple[ImageData, ImageData]:
    """Shuffle with the seed and split into (training, validation); each has at least one image."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    cut = min(max(round(len(data) * validation), 1), max(len(data) - 1, 1))
    return data.subset(order[cut:] if len(data) > 1 else order), data.subset(order[:cut])


def load_data(source: str, part: str = "train", image_size: int | None = None, unlabelled: bool = False) -> ImageData:
    """Load a data set into memory. Raises ValueError, one sentence, for a source that does not exist or cannot be read.

    source: "digits" (8x8, ships in data/); "mnist" or "cifar10", from paths.data_roots() or else downloaded by torchvision into
        paths.download_dir(); an .npz with arr_0 uint8 (N, H, W, C) and optionally arr_1, the labels; or a folder of images with
        one sub-folder per class
    part: "train" or "test" of the named sets
    image_size: side in pixels that images of a folder are cropped and resized to (default 32)
    unlabelled: True gives images without labels (an .npz without arr_1, a folder without sub-folders) the label -1, and accepts -1
        in arr_1; False makes them one class, as training needs
    """
    if source in KNOWN:
        for root in paths.data_roots():
            file = root / f"{source}-{part}.npz"
            if file.exists():
                return _from_npz(file, source, KNOWN[source])
        if source == "digits":
            raise ValueError(f"data/digits-{part}.npz of the project is missing; it ships with the program")
        return _from_torchvision(source, part)
    path = Path(source)
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path, path.stem, None, -1 if unlabelled else 0)
    if path.is_dir():
        return _from_folder(path, image_size or 32, unlabelled)
    zipped = "; unpack the ZIP first" if path.suffix.lower() == ".zip" else ""
    raise ValueError(f"no data set {source!r}: give {', '.join(KNOWN)}, an .npz file or a folder of images{zipped}")


def _from_npz(file: Path, name: str, classes: tuple[str, ...] | None, lowest: int = 0) -> ImageData:
    try:
        with zipfile.ZipFile(file):  # np.load alone would also accept a bare array or a pickle
            arrays = np.load(file, allow_pickle=False)
        with arrays:
            names = arrays.files
            images = np.asarray(arrays["arr_0"]) if "arr_0" in names else None
            labels = np.asarray(arrays["arr_1"]) if "arr_1" in names else None
    except (OSError, EOFError, KeyError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: not a readable .npz ({' '.join(str(error).split())})") from error
    if images is None:
        raise ValueError(f"{file}: holds {', '.join(names)}; images are expected as arr_0")
    if images.size == 0:
        raise ValueError(f"{file}: arr_0 is {images.dtype} {images.shape}: it holds no image")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"{file}: arr_0 is {images.dtype} {images.shape}; uint8 (N, H, W, 1 or 3) is accepted{_hint(images)}")
    labels = np.full(len(images), lowest) if labels is None else labels
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < lowest:
        raise ValueError(f"{file}: arr_1 is {labels.dtype} {labels.shape}; one non-negative integer label per image is accepted")
    count, most = int(labels.max()) + 1, len(classes) if classes else MAX_CLASSES
    if count > most:
        raise ValueError(f"{file}: arr_1 has a label {count - 1}; {name} has {most} classes at most, counted from 0")
    return ImageData(
        name,
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        torch.from_numpy(labels.astype(np.int64)),
        classes or tuple(str(k) for k in range(count)),
    )


def _hint(images: np.ndarray) -> str:
    """What to do about float pixels. Their scale is not guessed, because a wrong guess would give wrong results."""
    if not np.issubdtype(images.dtype, np.floating):
        return ""
    bad = int((~np.isfinite(images)).sum())
    if bad:
        return f"; {bad:,} of its {images.size:,} values are NaN or infinite"
    return f"; its values go from {images.min():.4g} to {images.max():.4g}: scale them to 0..255 and round"


def _from_torchvision(name: str, part: str) -> ImageData:
    from torchvision import datasets

    root = paths.download_dir()
    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    try:
        raw = kind(str(root), train=part == "train", download=True)
    except Exception as error:  # torchvision passes on every error of its downloader
        raise ValueError(f"{name} is neither in {root} nor could it be downloaded: {' '.join(str(error).split())[:200]}") from error
    images = np.asarray(raw.data)
    images = images[..., None] if images.ndim == 3 else images
    labels = torch.as_tensor(np.asarray(raw.targets), dtype=torch.int64)
    return ImageData(name, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), labels, KNOWN[name])


def _from_folder(path: Path, size: int, unlabelled: bool = False) -> ImageData:
    """One sub-folder per class; a folder without sub-folders is one class. Skips, and prints, unreadable files, images beside the
    sub-folders, and sub-folders without a readable image."""
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")) or [path]
    flat = folders == [path]
    images, labels, bad, classes = [], [], [], []
    for folder in folders:
        before = len(images)
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                try:
                    images.append(np.asarray(centre_crop(open_picture(file), size)))
                    labels.append(-1 if flat and unlabelled else len(classes))
                except PictureError as error:
                    bad.append(f"{file}: {error}")
        if len(images) > before:
            classes.append(folder.name)
        else:
            bad.append(f"{folder}: no class, as there is no readable image in it")
    if not flat and (beside := sum(f.suffix.lower() in IMAGE_SUFFIXES for f in path.iterdir())):
        bad.append(f"{beside} image{'s' if beside > 1 else ''} beside the sub-folders of {path}: move them into a sub-folder")
    if not images:
        raise ValueError(f"{path}: no readable image in it" + (f" ({len(bad)} unreadable, first {bad[0]})" if bad else ""))
    for line in bad:
        print(f"skipped {line}")
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return ImageData(path.name, stack, torch.tensor(labels), tuple(classes))


def local_place(source: str, part: str = "test") -> Path | None:
    """Where a named data set lies on this machine. None for other sources and where it would have to be downloaded."""
    if source not in KNOWN:
        return None
    cache = paths.download_dir()
    downloaded = {"mnist": [cache / "MNIST" / "raw"], "cifar10": [cache / "cifar-10-batches-py"]}.get(source, [])
    return next((p for p in [*(root / f"{source}-{part}.npz" for root in paths.data_roots()), *downloaded] if p.exists()), None)


def local_data(source: str, part: str = "test") -> ImageData | None:
    """A named data set if it lies on this machine, else None. Downloads nothing; keeps the last four in memory."""
    place = local_place(source, part)
    return _load_once(source, part, place) if place else None


@lru_cache(maxsize=4)
def _load_once(source: str, part: str, place: Path) -> ImageData:
    return load_data(source, part)
