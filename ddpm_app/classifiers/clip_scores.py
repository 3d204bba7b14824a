"""Prompts, and numbers from CLIP's unit vectors: similarities, the best prompt, agreement with the requested class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PUBLISHED_TOP1 = 0.2351  # average top-1 similarity, ViT-B/32, samples of a CIFAR-10 DDPM trained for 50 epochs
MAX_PROMPTS, MAX_LETTERS = 1000, 300


def check_prompts(prompts: Sequence[str] | str, most: int = MAX_PROMPTS) -> list[str]:
    """The prompts of a list, or of a text with one per line, without blank and repeated ones.

    Raises ValueError if none is left, if there are more than `most`, or if one is longer than MAX_LETTERS."""
    lines = prompts.splitlines() if isinstance(prompts, str) else [str(p) for p in prompts]
    kept = list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if not kept:
        raise ValueError("there is no prompt; give at least one, such as: a photo of a cat")
    if len(kept) > most:
        raise ValueError(f"{len(kept):,} prompts were given; at most {most:,} are accepted")
    if long := next((p for p in kept if len(p) > MAX_LETTERS), None):
        raise ValueError(f"the prompt {long[:40]!r}... has {len(long):,} letters; at most {MAX_LETTERS} are accepted")
    return kept


def class_prompts(classes: Sequence[str]) -> list[str]:
    """A prompt for each class: "a photo of a cat"; for digits "a photo of the number: 7" (Radford et al. 2021)."""
    return [f"a photo of the number: {c}" if c.isdigit() else f"a photo of a {c}" for c in classes]


def prompts_of_classes(classes: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """bool (K, P): whether prompt p names class k, that is, contains its name as whole words."""
    patterns = [re.compile(rf"(?<!\w){re.escape(c)}(?!\w)", re.IGNORECASE) for c in classes]
    return torch.tensor([[bool(pattern.search(p)) for p in prompts] for pattern in patterns], dtype=torch.bool).view(
        len(classes), len(prompts)
    )


class Scores(NamedTuple):
    """Scores of N images with P prompts. Fields from `matching` on need labels; else they are None, 0 or empty.

    similarity: (N, P) cosines
    best: (N,) index of the most similar prompt
    top1: (N,) its similarity
    average_top1: mean of top1
    matching: share of labelled images whose best prompt names their class
    intended: mean over the labelled images of the highest similarity to a prompt that names their class
    judged: number of labelled images whose class a prompt names
    by_class: {"n", "matching", "intended"} for each class
    """

    similarity: Tensor
    best: Tensor
    top1: Tensor
    average_top1: float
    matching: float | None = None
    intended: float | None = None
    judged: int = 0
    by_class: tuple[dict, ...] = ()


def score(images: Tensor, prompts: Tensor, labels: Tensor | None = None, names_class: Tensor | None = None) -> Scores:
    """Compare unit vectors of images (N, D) with those of prompts (P, D).

    labels: (N,) requested class, -1 for none. names_class: bool (K, P) from prompts_of_classes; by default prompt k names class k.
    Images without a class, or whose class no prompt names, are left out of matching and intended.
    Raises ValueError for features of other shapes."""
    if images.ndim != 2 or prompts.ndim != 2 or images.shape[1] != prompts.shape[1] or not len(images) or not len(prompts):
        raise ValueError(f"features are (N, D) and (P, D), not {tuple(images.shape)} and {tuple(prompts.shape)}")
    similarity = images.float() @ prompts.float().T
    top1, best = similarity.max(1)
    scores = Scores(similarity, best, top1, float(top1.mean()))
    if labels is None:
        return scores
    names_class = torch.eye(len(prompts), dtype=torch.bool) if names_class is None else names_class
    usable = (labels >= 0) & (labels < len(names_class))
    usable &= names_class[labels.clamp(0, len(names_class) - 1)].any(1)
    if not usable.any():
        return scores
    allowed = names_class[labels[usable]]
    hit = allowed.gather(1, best[usable, None])[:, 0].float()
    intended = similarity[usable].masked_fill(~allowed, -torch.inf).max(1).values
    rows = []
    for k in range(len(names_class)):
        of_class = labels[usable] == k
        n = int(of_class.sum())
        means = {"matching": float(hit[of_class].mean()), "intended": float(intended[of_class].mean())} if n else {}
        rows.append({"n": n, "matching": None, "intended": None} | means)
    return scores._replace(matching=float(hit.mean()), intended=float(intended.mean()), judged=int(usable.sum()), by_class=tuple(rows))


def rank(images: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Order images by similarity to one prompt. images: unit vectors (N, D). prompt: (D,) or (1, D).

    Returns (order (N,), most similar first; similarities (N,) in that order)."""
    similarity = images.float() @ prompt.float().view(-1)
    values, order = similarity.sort(descending=True, stable=True)
    return order, values
