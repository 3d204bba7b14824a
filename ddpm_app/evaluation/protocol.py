"""The name and the protocol of a measured number, and the reference images.

The names "FID", "KID" and "IS" need what the literature uses: Inception with the legacy TensorFlow weights, 50,000 samples, the
training split. Other numbers have the feature network in their names (FD-classifier), and their protocols say why they are not comparable.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.evaluation.features import LEGACY, Extractor
from ddpm_app.evaluation.samples import load_images
from ddpm_app.images.datasets import KNOWN, ImageData, load_data
from ddpm_app.paths import PROJECT
from ddpm_app.studio.studio import Studio

STANDARD_N = 50_000
LITERATURE = {"FD": "FID", "FD-infinity": "FID-infinity", "KD": "KID", "IS": "IS"}
IN_FEATURES = (*LITERATURE, "precision", "recall", "closer-than-real")  # numbers that depend on the feature network


class Refusal(NamedTuple):
    """A metric that was not measured.

    metric:  one of plan.METRICS
    reason:  why, one sentence
    """

    metric: str
    reason: str


class Reference(NamedTuple):
    """The images to measure against.

    name:  of the data set, the file or the folder
    part:  train or test; "" for a file or a folder
    data:  the images
    """

    name: str
    part: str
    data: ImageData


def reference_of(against: str, data_name: str, size: int, channels: int = 0, default: str = "train") -> Reference:
    """The images to measure against.

    against:    train or test (of the data set data_name), mnist or cifar10 alone or with :train or :test, an .npz
                or a folder; "" is default
    data_name:  the data set of the checkpoint, "" without a checkpoint
    size:       image side in pixels
    channels:   1 reads grey pictures that are stored as colour as grey

    Raises ValueError for images that cannot be read."""
    against = against or default
    name, _, part = against.rpartition(":") if against.endswith((":train", ":test")) else (against, "", "")
    if against in ("train", "test"):
        name, part = data_name, against
    if not name:
        raise ValueError("there is no checkpoint whose data set could be the reference; say which with --against NAME or FILE.npz")
    if name in KNOWN:
        return Reference(name, part or default, load_data(name, part or default))
    if name == data_name:  # a folder or a file has no test split
        return Reference(Path(name).name, "", load_data(name, part or default, size))
    images, labels = load_images(name, channels)
    return Reference(Path(name).name, "", ImageData(Path(name).name, images.all(), labels, ()))


def differences(name: str, extractor: Extractor, reference: Reference | None, data_name: str, n: int) -> list[str]:
    """Why a number is not comparable to the literature's; [] if it is. name: FD, KD, IS, precision, ... without the network's name."""
    why = []
    if extractor.kind != "inception":
        why.append(f"features of the {extractor.about}, not Inception's")
    elif not extractor.digest.startswith(LEGACY):
        why.append("Inception's weights are not the literature's")
    if name != "IS" and (reference is None or (reference.name, reference.part) != (data_name, "train")):
        why.append("the reference is not the training split")
    if n != STANDARD_N and not name.endswith("-infinity"):
        why.append(f"n = {n:,}, not {STANDARD_N:,}")
    if name not in LITERATURE:
        why.append("the literature measures it in other features" if name in ("precision", "recall") else "no number of the literature")
    return why


def published_name(name: str, extractor: Extractor | None, reference: Reference | None, data_name: str, n: int) -> str:
    """The literature's name if the number is comparable to the literature's, otherwise a name with the feature network in it."""
    if extractor is None or name not in IN_FEATURES:
        return name
    if not differences(name, extractor, reference, data_name, n):
        return LITERATURE[name]
    stem, dash, rest = name.partition("-")
    return f"{name}-{extractor.kind}" if stem == "closer" else f"{stem}-{extractor.kind}{dash}{rest}"


def protocol_of(name: str, extractor: Extractor | None, reference: Reference | None, data_name: str, n: int) -> dict:
    """The part of the protocol that belongs to one number: feature network with its hash, reference, comparability."""
    rows: dict = {}
    if extractor is not None:
        rows["features"] = {"network": extractor.about, "layer": extractor.layer, "dimensions": extractor.dims, "sha256": extractor.digest}
    if extractor is not None and name in IN_FEATURES:
        if reference is not None and name != "IS":
            rows["reference"] = f"{reference.name} {reference.part}".strip() + f", {len(reference.data):,} images"
        why = differences(name, extractor, reference, data_name, n)
        rows["comparable to the literature"] = "no: " + "; ".join(why) if why else "yes"
    return rows


def commit() -> str:
    """The commit of the program, with "+" if files were changed; "" outside a repository."""
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=PROJECT, capture_output=True, text=True, timeout=10)
        return run.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def precision_of(studio: Studio, sampled: Checkpoint | None = None) -> str:
    """The type of the numbers that networks compute with: float32, bfloat16; of the samples of a model also int8 (OpenVINO)."""
    network = studio.sampling_denoiser(sampled).network if sampled else None
    return getattr(network, "precision", "") or str(studio.dtype).removeprefix("torch.")


def software() -> str:
    from importlib.metadata import version

    return f"torch-fidelity {version('torch-fidelity')}, torch {torch.__version__}"
