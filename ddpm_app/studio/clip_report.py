"""What CLIP says of a set of pictures, beside what it says of real ones: the CLIP tab, and python -m ddpm_app label."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app.classifiers.clip import Clip
from ddpm_app.classifiers.clip_scores import Scores, check_prompts, class_prompts, prompts_of_classes, score
from ddpm_app.images import png_settings
from ddpm_app.images.datasets import KNOWN, load_data, local_data
from ddpm_app.images.decode import IMAGE_SUFFIXES, PictureError, centre_crop, open_picture, read_bytes
from ddpm_app.studio.studio import Studio

REAL = 1000  # real test images that are judged beside; fewer for networks that take seconds an image on this device
_REAL: OrderedDict[tuple, Tensor] = OrderedDict()  # features of real images, by CLIP, data set and number


@dataclass(frozen=True)
class Pictures:
    """images (N, C, H, W) uint8; labels (N,) int64, -1 where nobody asked for a class; classes: a name per label.

    data: the data set whose real test images are their ceiling, "" where unknown. notes: sentences about what was left out."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    data: str = ""
    notes: tuple[str, ...] = ()


def read_pictures(sources: Sequence[tuple[str, bytes | Path]], size: int | None, studio: Studio | None = None) -> Pictures:
    """(name, bytes or path) each -> RGB squares of `size` pixels (None: as large as the first); PNGs of ours bring their class.

    Unreadable ones are left out, with a note. Raises ValueError where none can be read."""
    found = studio.checkpoints() if studio else {}
    images, asked, bad = [], [], []
    for name, source in sources:
        try:
            content = read_bytes(source)
            picture = open_picture(content)
            size = size or min(*picture.size, 512)
            images.append(np.asarray(centre_crop(picture, size)))
        except PictureError as error:
            bad.append(f"{name}: {error}")
            continue
        asked.append(_asked(content, found))
    if not images:
        raise ValueError(f"none of the pictures can be read; {bad[0]}" if bad else "there are no pictures")
    classes = next((c for _, c, _ in asked if c), ())  # of one family: labels of other models' classes are not mixed in
    data = {d for _, c, d in asked if c == classes} if classes else set()
    labels = [label if c == classes and c else -1 for label, c, _ in asked]
    notes = [f"{len(bad)} of {len(sources)} pictures could not be read; {bad[0]}"] if bad else []
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Pictures(stack, torch.tensor(labels), classes, data.pop() if len(data) == 1 else "", tuple(notes))


def _asked(content: bytes, found: dict) -> tuple[int, tuple[str, ...], str]:
    """(label, classes, data set) from a PNG's settings, where its checkpoint is at hand; (-1, (), "") else."""
    try:
        settings = png_settings.read(content)
    except PictureError:
        return -1, (), ""
    checkpoint = found.get(settings.get("checkpoint", ""))
    if checkpoint is None:
        return -1, (), ""
    label, classes = settings.get("label"), checkpoint.config.classes
    return (label if label is not None and label < len(classes) else -1), classes, checkpoint.config.data


def open_source(source: str, size: int) -> Pictures:
    """An .npz (arr_0 uint8 NHWC, perhaps arr_1 labels) or a folder: one sub-folder a class, or PNGs as `sample` writes them."""
    path = Path(source)
    if path.is_dir():
        if not any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir()):
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            return read_pictures([(f.name, f) for f in files], size, Studio(device="cpu"))
        data = load_data(str(path), image_size=size)
        return Pictures(data.images, data.labels, data.classes)
    if path.suffix != ".npz":
        raise ValueError(f"--images is {source}; an .npz file or a folder of images is accepted")
    data = load_data(source, unlabelled=True)
    names = KNOWN["mnist" if data.images.shape[1] == 1 else "cifar10"]
    most = int(data.labels.max())
    labelled = most >= 0
    fits = labelled and most < len(names)
    notes = (
        (f"arr_1 has a label {most}, and {len(names)} classes are known of such images: judged without labels",)
        if labelled and not fits
        else ()
    )
    return Pictures(data.images, data.labels if fits else torch.full((len(data),), -1), names if fits else (), notes=notes)


@dataclass(frozen=True)
class Report:
    """clip: who judged. features (N, D). scores: of the pictures. real: the same figures of real test images, with "source", the
    sentence that says which, or None, and then `why` says why. unknown: words of the prompts that this CLIP has never read."""

    clip: Clip
    pictures: Pictures
    prompts: list[str]
    features: Tensor
    scores: Scores
    real: dict | None
    why: str
    unknown: list[str]


def report(clip: Clip, pictures: Pictures, prompts: Sequence[str] | str, progress=None) -> Report:
    """Judge the pictures by the prompts. progress(done, n) after each batch. Raises ValueError as check_prompts does."""
    prompts = check_prompts(prompts)
    text, parts = clip.text(prompts), []
    for part in pictures.images.split(32):
        parts.append(clip.images(part))
        if progress:
            progress(sum(map(len, parts)), len(pictures.images))
    features = torch.cat(parts)
    speaks = prompts_of_classes(pictures.classes, prompts) if pictures.classes else None
    scores = score(features, text, pictures.labels if pictures.classes else None, speaks)
    real, why = real_figures(clip, prompts, text, pictures.data)
    unknown = sorted({w for p in prompts for w in clip.unknown_words(p)})
    return Report(clip, pictures, prompts, features, scores, real, why, unknown)


def real_figures(clip: Clip, prompts: list[str], text: Tensor, data: str) -> tuple[dict | None, str]:
    """(average_top1, matching, intended, by_class, n, source) of real test images and "", or None and why there are none."""
    if data not in KNOWN:
        return None, "It is not known which data set these pictures should resemble, so no real ones stand beside them."
    if clip.card.get("data") == data and clip.card.get("real") and prompts == class_prompts(KNOWN[data]):
        return clip.card["real"] | {
            "source": f"all {clip.card['real']['n']:,} real test images of {data}, figures stored with this CLIP"
        }, ""
    if (test := local_data(data)) is None:
        return None, f"The real test images of {data} are not on this machine, and no figures are stored for this CLIP and these prompts."
    n = REAL if clip.image_size <= 64 or clip.device.type == "cuda" else REAL // 10
    key = (clip.digest, data, n)
    if key not in _REAL:
        _REAL[key] = clip.images(test.images[:n])
        while len(_REAL) > 8:
            _REAL.popitem(last=False)
    s = score(_REAL[key], text, test.labels[:n], prompts_of_classes(test.classes, prompts))
    figures = {"n": n, "average_top1": s.average_top1, "matching": s.matching, "intended": s.intended, "by_class": list(s.by_class)}
    return figures | {"source": f"the first {n:,} real test images of {data}, judged here"}, ""


# -- the command line -----------------------------------------------------------------------------------------------------
