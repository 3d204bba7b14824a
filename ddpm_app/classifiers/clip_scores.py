"""Prompts, and the numbers that CLIP's unit vectors give: similarities, the best prompt, agreement with the class asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PUBLISHED_TOP1 = 0.2351  # average top-1 similarity, ViT-B/32, samples of a CIFAR-10 DDPM trained for 50 epochs
MAX_PROMPTS, MAX_LETTERS = 1000, 300


def check_prompts(prompts: Sequence[str] | str, most: int = MAX_PROMPTS) -> list[str]:
    """The prompts without blank ones and repetitions, from a list or from a text with one a line.

    Raises ValueError where none is left, where there are more than `most`, or where one is longer than MAX_LETTERS."""
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
    """A prompt a class, in CLIP's words: "a photo of a cat"; of digits: "a photo of the number: 7" (Radford et al. 2021)."""
    return [f"a photo of the number: {c}" if c.isdigit() else f"a photo of a {c}" for c in classes]


def prompts_of_classes(classes: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """bool (K, P): whether prompt p speaks of class k, that is, holds its name as whole words."""
    patterns = [re.compile(rf"(?<!\w){re.escape(c)}(?!\w)", re.IGNORECASE) for c in classes]
    return torch.tensor([[bool(pattern.search(p)) for p in prompts] for pattern in patterns], dtype=torch.bool).view(
        len(classes), len(prompts)
    )


class Scores(NamedTuple):
    """What a set of prompts says about N images. matching and intended need the classes asked for; else they are None.

    similarity: (N, P) cosines. best: (N,) the likeliest prompt of each. top1: (N,) its similarity. average_top1: its mean.
    matching: share of images whose best prompt speaks of their class. intended: mean similarity to (the best of) those prompts.
    judged: images the last two rest on. by_class: a dict a class: n, matching, intended."""

    similarity: Tensor
    best: Tensor
    top1: Tensor
    average_top1: float
    matching: float | None = None
    intended: float | None = None
    judged: int = 0
    by_class: tuple[dict, ...] = ()


def score(images: Tensor, prompts: Tensor, labels: Tensor | None = None, speaks: Tensor | None = None) -> Scores:
    """Compare unit vectors of images (N, D) with those of prompts (P, D).

    labels: (N,) class asked for, -1 where none was. speaks: bool (K, P) as prompts_of_classes gives it; without it prompt k
    is class k's. Images without a class, or whose class no prompt speaks of, are left out of matching and intended."""
    if images.ndim != 2 or prompts.ndim != 2 or images.shape[1] != prompts.shape[1] or not len(images) or not len(prompts):
        raise ValueError(f"features are (N, D) and (P, D), not {tuple(images.shape)} and {tuple(prompts.shape)}")
    similarity = images.float() @ prompts.float().T
    top1, best = similarity.max(1)
    scores = Scores(similarity, best, top1, float(top1.mean()))
    if labels is None:
        return scores
    speaks = torch.eye(len(prompts), dtype=torch.bool) if speaks is None else speaks
    usable = (labels >= 0) & (labels < len(speaks))
    usable &= speaks[labels.clamp(0, len(speaks) - 1)].any(1)
    if not usable.any():
        return scores
    allowed = speaks[labels[usable]]
    hit = allowed.gather(1, best[usable, None])[:, 0].float()
    meant = similarity[usable].masked_fill(~allowed, -torch.inf).max(1).values
    rows = []
    for k in range(len(speaks)):
        mine = labels[usable] == k
        n = int(mine.sum())
        rows.append({"n": n, "matching": float(hit[mine].mean()) if n else None, "intended": float(meant[mine].mean()) if n else None})
    return scores._replace(matching=float(hit.mean()), intended=float(meant.mean()), judged=int(usable.sum()), by_class=tuple(rows))


def rank(images: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of images (N, D), of one prompt (D,) or (1, D) -> (order (N,), best first; similarities (N,) in that order)."""
    similarity = images.float() @ prompt.float().view(-1)
    values, order = similarity.sort(descending=True, stable=True)
    return order, values
