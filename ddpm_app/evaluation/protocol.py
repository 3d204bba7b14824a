"""A measured number, what it may be called, and the protocol it carries.

"FID", "KID" and "IS" alone are the literature's: Inception with the legacy TensorFlow weights, 50,000 samples, the training
split. Everything else is called after what it is (FD-classifier) and says why it is not comparable.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_app.evaluation.features import LEGACY, Extractor
from ddpm_app.evaluation.samples import given
from ddpm_app.images.datasets import KNOWN, ImageData, load_data
from ddpm_app.paths import PROJECT

STANDARD_N = 50_000
LITERATURE = {"FD": "FID", "FD-infinity": "FID-infinity", "KD": "KID", "IS": "IS"}
IN_FEATURES = (*LITERATURE, "precision", "recall", "closer-than-real")  # numbers that another network would give otherwise


class Refusal(NamedTuple):
    """A metric that was not measured, and one sentence why."""

    metric: str
    says: str


class Reference(NamedTuple):
    """name: of the data set; part: train, test or "" for a file; data: its images."""

    name: str
    part: str
    data: ImageData


def reference_of(against: str, own: str, size: int, channels: int = 0, default: str = "train") -> Reference:
    """The images to measure against. against: train or test (of `own`, the checkpoint's data set), mnist or cifar10 alone or with
    :train or :test, an .npz or a folder; "" is `default`. Raises ValueError."""
    against = against or default
    name, _, part = against.rpartition(":") if against.endswith((":train", ":test")) else (against, "", "")
    if against in ("train", "test"):
        name, part = own, against
    if not name:
        raise ValueError("there is no checkpoint whose data set could be the reference; say which with --against NAME or FILE.npz")
    if name in KNOWN:
        return Reference(name, part or default, load_data(name, part or default))
    if name == own:  # a folder or a file of one's own has no test split
        return Reference(Path(name).name, "", load_data(name, part or default, size))
    images, labels = given(name, channels)
    return Reference(Path(name).name, "", ImageData(Path(name).name, images.all(), labels, ()))


def why_not(name: str, extractor: Extractor, reference: Reference | None, own: str, n: int) -> list[str]:
    """What sets a number apart from the literature's, [] where nothing does. name: FD, KD, IS, precision, ... without the network's."""
    why = []
    if extractor.kind != "inception":
        why.append(f"features of the {extractor.about}, not Inception's")
    elif not extractor.digest.startswith(LEGACY):
        why.append("Inception's weights are not the literature's")
    if name != "IS" and (reference is None or (reference.name, reference.part) != (own, "train")):
        why.append("the reference is not the training split")
    if n != STANDARD_N and not name.endswith("-infinity"):
        why.append(f"n = {n:,}, not {STANDARD_N:,}")
    if name not in LITERATURE:
        why.append("the literature measures it in other features" if name in ("precision", "recall") else "no number of the literature")
    return why


def named(name: str, extractor: Extractor | None, reference: Reference | None, own: str, n: int) -> str:
    """The literature's name where nothing sets the number apart from it, else one with the feature network in it."""
    if extractor is None or name not in IN_FEATURES:
        return name
    if not why_not(name, extractor, reference, own, n):
        return LITERATURE[name]
    stem, dash, rest = name.partition("-")
    return f"{name}-{extractor.kind}" if stem == "closer" else f"{stem}-{extractor.kind}{dash}{rest}"


def protocol_of(name: str, extractor: Extractor | None, reference: Reference | None, own: str, n: int) -> dict:
    """The part of the protocol that belongs to one number: feature network and its hash, reference split, comparability."""
    rows: dict = {}
    if extractor is not None:
        rows["features"] = {"network": extractor.about, "layer": extractor.layer, "dimensions": extractor.dims, "sha256": extractor.digest}
    if extractor is not None and name in IN_FEATURES:
        if reference is not None and name != "IS":
            rows["reference"] = f"{reference.name} {reference.part}".strip() + f", {len(reference.data):,} images"
        why = why_not(name, extractor, reference, own, n)
        rows["comparable to the literature"] = "no: " + "; ".join(why) if why else "yes"
    return rows


def commit() -> str:
    """The commit the numbers were made at, "+" for changed files; empty outside a repository."""
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=PROJECT, capture_output=True, text=True, timeout=10)
        return run.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def software() -> str:
    from importlib.metadata import version

    return f"torch-fidelity {version('torch-fidelity')}, torch {torch.__version__}"
