"""CLIP's scores of a set of images, compared with those of real images: for the CLIP tab and `python -m ddpm_app label`."""

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
from ddpm_app.images.datasets import KNOWN, load_data, local_data
from ddpm_app.images.decode import IMAGE_SUFFIXES, PictureError, centre_crop, open_picture, read_bytes
from ddpm_app.studio import png_settings
from ddpm_app.studio.studio import Studio

REAL = 1000  # real test images scored for comparison; a tenth of it where CLIP takes seconds per image
_REAL: OrderedDict[tuple, Tensor] = OrderedDict()  # features of real images, by CLIP, data set and number


@dataclass(frozen=True)
class Pictures:
    """Images to score.

    images:  uint8 (N, C, H, W)
    labels:  int64 (N,), -1 if the class is unknown
    classes: the name of each label
    data:    the data set whose real test images are the comparison, "" if unknown
    notes:   sentences about images or labels that were left out
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    data: str = ""
    notes: tuple[str, ...] = ()


def read_pictures(sources: Sequence[tuple[str, bytes | Path]], size: int | None, studio: Studio | None = None) -> Pictures:
    """Decode image files, crop them to squares and resize them. PNGs that this program saved carry their class.

    sources: (name, bytes or path) of each file
    size:    pixels a side; None takes the size of the first image
    Files that cannot be read are left out, with a note. Raises ValueError if none can be read.
    """
    checkpoints = studio.checkpoints() if studio else {}
    images, requested, bad = [], [], []
    for name, source in sources:
        try:
            content = read_bytes(source)
            picture = open_picture(content)
            size = size or min(*picture.size, 512)
            images.append(np.asarray(centre_crop(picture, size)))
        except PictureError as error:
            bad.append(f"{name}: {error}")
            continue
        requested.append(_requested_class(content, checkpoints))
    if not images:
        raise ValueError(f"none of the pictures can be read; {bad[0]}" if bad else "there are no pictures; give at least one image file")
    classes = next((c for _, c, _ in requested if c), ())  # one set of classes: labels of other sets become -1
    data = {d for _, c, d in requested if c == classes} if classes else set()
    labels = [label if c == classes and c else -1 for label, c, _ in requested]
    notes = [f"{len(bad)} of {len(sources)} pictures could not be read; {bad[0]}"] if bad else []
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Pictures(stack, torch.tensor(labels), classes, data.pop() if len(data) == 1 else "", tuple(notes))


def _requested_class(content: bytes, checkpoints: dict) -> tuple[int, tuple[str, ...], str]:
    """(label, classes, data set) from a PNG's settings if its checkpoint is on this machine, else (-1, (), "")."""
    try:
        settings = png_settings.read(content)
    except PictureError:
        return -1, (), ""
    checkpoint = checkpoints.get(settings.get("checkpoint", ""))
    if checkpoint is None:
        return -1, (), ""
    label, classes = settings.get("label"), checkpoint.config.classes
    return (label if label is not None and label < len(classes) else -1), classes, checkpoint.config.data


def open_source(source: str, size: int) -> Pictures:
    """Read images from an .npz (arr_0 uint8 NHWC, optionally arr_1 labels) or a folder of class folders or of images."""
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
    notes = (f"arr_1 has label {most}, but there are {len(names)} classes; the labels are ignored",) if labelled and not fits else ()
    return Pictures(data.images, data.labels if fits else torch.full((len(data),), -1), names if fits else (), notes=notes)


@dataclass(frozen=True)
class Report:
    """CLIP's scores of a set of images.

    clip:     the CLIP that scored them
    pictures: the images
    prompts:  the texts they were compared with
    features: (N, D) image features
    scores:   scores of the images
    real:     scores of real test images; "source" says which images; None if there are none
    why:      why real is None
    unknown:  words of the prompts that were not in CLIP's training captions
    """

    clip: Clip
    pictures: Pictures
    prompts: list[str]
    features: Tensor
    scores: Scores
    real: dict | None
    why: str
    unknown: list[str]


def report(clip: Clip, pictures: Pictures, prompts: Sequence[str] | str, progress=None) -> Report:
    """Score images with prompts. progress(done, n) is called after each batch. Raises ValueError for bad prompts."""
    prompts = check_prompts(prompts)
    text, parts = clip.text(prompts), []
    for part in pictures.images.split(32):
        parts.append(clip.images(part))
        if progress:
            progress(sum(map(len, parts)), len(pictures.images))
    features = torch.cat(parts)
    class_of_prompt = prompts_of_classes(pictures.classes, prompts) if pictures.classes else None
    scores = score(features, text, pictures.labels if pictures.classes else None, class_of_prompt)
    real, why = real_figures(clip, prompts, text, pictures.data)
    unknown = sorted({w for p in prompts for w in clip.unknown_words(p)})
    return Report(clip, pictures, prompts, features, scores, real, why, unknown)


def real_figures(clip: Clip, prompts: list[str], text: Tensor, data: str) -> tuple[dict | None, str]:
    """Scores of real test images and "", or None and a sentence why there are none.

    The scores are a dict with average_top1, matching, intended, by_class, n and source.
    """
    if data not in KNOWN:
        return None, "The data set of these images is unknown, so there are no real images to compare with."
    if clip.card.get("data") == data and clip.card.get("real") and prompts == class_prompts(KNOWN[data]):
        return clip.card["real"] | {
            "source": f"all {clip.card['real']['n']:,} real test images of {data}, scores stored with this CLIP"
        }, ""
    if (test := local_data(data)) is None:
        return None, f"The real test images of {data} are not on this machine, and no scores are stored for this CLIP and these prompts."
    n = REAL if clip.image_size <= 64 or clip.device.type == "cuda" else REAL // 10
    key = (clip.digest, data, n)
    if key not in _REAL:
        _REAL[key] = clip.images(test.images[:n])
        while len(_REAL) > 8:
            _REAL.popitem(last=False)
    s = score(_REAL[key], text, test.labels[:n], prompts_of_classes(test.classes, prompts))
    figures = {"n": n, "average_top1": s.average_top1, "matching": s.matching, "intended": s.intended, "by_class": list(s.by_class)}
    return figures | {"source": f"the first {n:,} real test images of {data}, scored on this machine"}, ""
