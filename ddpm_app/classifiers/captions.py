"""Captions of CIFAR-10: the search terms that its images were collected with, put into sentences and tokenised."""

from __future__ import annotations

import functools
import pickle
import random
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_app import paths
from ddpm_app.images.datasets import ImageData, load_data

TEMPLATES = (
    "a photo of a {}", "a photo of a {}", "a photo of the {}", "a photo of one {}", "a picture of a {}", "an image of a {}", "a {}", "{}",
    "a low resolution photo of a {}", "a blurry photo of a {}", "a close-up photo of a {}", "a photo of a small {}", "a photo of a big {}",
)  # fmt: skip
WORDS = {"airplane": ("airplane", "plane"), "automobile": ("automobile", "car"), "ship": ("ship", "boat")}  # names of a class
UNKNOWN = 49000  # a token that no caption uses; the rows of all such tokens are zero


class CaptionedImages(NamedTuple):
    """One split of CIFAR-10 with the search term of each image.

    data: the images and their classes
    term: (N,) index into terms
    terms: the search terms
    """

    data: ImageData
    term: Tensor
    terms: tuple[str, ...]


def file_names(part: str) -> list[str]:
    """CIFAR-10's file names in the order of load_data, from its .npz or else from the batches that torchvision downloaded.

    Raises ValueError for an .npz without file names."""
    for root in paths.data_roots():
        file = root / f"cifar10-{part}.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as arrays:
                if "filenames" not in arrays.files:
                    raise ValueError(f"{file} holds no filenames; captions are made from them")
                return [str(name) for name in arrays["filenames"]]
    from torchvision import datasets

    raw = datasets.CIFAR10(str(paths.download_dir()), train=part == "train")  # it checks the MD5 of each batch, so unpickling them is safe
    names = []
    for batch, _ in raw.train_list if part == "train" else raw.test_list:
        with open(Path(raw.root) / raw.base_folder / batch, "rb") as f:
            names += pickle.load(f, encoding="latin1")["filenames"]
    return names


def term_of(name: str) -> str:
    """ "tabby_cat_s_000123" or "tabby_cat_s_000123.png" -> "tabby cat"."""
    return re.sub(r"_s_\d+(\.png)?$", "", name).replace("_", " ")


def load_captioned(part: str) -> CaptionedImages:
    """The "train" or "test" split of CIFAR-10 with its search terms."""
    data, term_of_image = load_data("cifar10", part), [term_of(name) for name in file_names(part)]
    terms = tuple(sorted(set(term_of_image)))
    index = {term: k for k, term in enumerate(terms)}
    return CaptionedImages(data, torch.tensor([index[t] for t in term_of_image]), terms)


def with_article(text: str) -> str:
    """ "a" before a vowel becomes "an"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def caption(term: str, label: str, draw: random.Random) -> tuple[str, bool]:
    """(a caption, whether it names only the class) for an image of class `label` collected with the search term `term`.

    Half of the captions use "a" before a vowel, as the ten class prompts do. Where a term is also a name of the class ("car"), the
    caption of the term ends in ", a type of automobile"."""
    template, of_class, names = draw.choice(TEMPLATES), draw.random() < 0.45, WORDS.get(label, (label,))
    if of_class:
        text = template.format(draw.choice(names))
    else:
        text = template.format(term) + (f", a type of {label}" if term in names or draw.random() < 0.6 else "")
    return (text if draw.random() < 0.5 else with_article(text)), of_class


class Captioner:
    """Makes the tokenised captions of a batch, each distinct caption once."""

    def __init__(self, terms: tuple[str, ...], classes: tuple[str, ...], tokenizer, context: int, seed: int):
        self.terms, self.classes, self.context, self.draw = terms, classes, context, random.Random(seed)
        self.encode = functools.lru_cache(None)(tokenizer.encode)
        self.start, self.end = tokenizer.sot_token_id, tokenizer.eot_token_id

    def used_tokens(self, pairs: set[tuple[int, int]]) -> Tensor:
        """bool (vocabulary,): the tokens of every caption that these (term, label) pairs can have."""
        used = torch.zeros(49408, dtype=torch.bool)
        used[[self.start, self.end]] = True
        for term, label in pairs:
            for words in {self.terms[term], *WORDS.get(self.classes[label], (self.classes[label],))}:
                for text in (words, f"{words}, a type of {self.classes[label]}", f"an {words}"):
                    used[self.encode(text)] = True
        for template in TEMPLATES:
            used[self.encode(template.format("cat"))] = True
        return used

    def __call__(self, term: Tensor, label: Tensor) -> tuple[Tensor, list[tuple[int, int, bool]]]:
        """Tokens (U, context), and for each caption (term, label, whether it names only the class)."""
        captions: dict[str, tuple[int, int, bool]] = {}
        for t, c in zip(term.tolist(), label.tolist()):
            text, of_class = caption(self.terms[t], self.classes[c], self.draw)
            captions.setdefault(text, (t, c, of_class))
        tokens = torch.zeros(len(captions), self.context, dtype=torch.long)
        for row, text in zip(tokens, captions):
            words = list(self.encode(text))
            for _ in range(self.draw.choice((0, 0, 1, 2, 3))):
                words.insert(self.draw.randint(0, len(words)), UNKNOWN)
            words = [self.start, *words[: self.context - 2], self.end]
            row[: len(words)] = torch.tensor(words)
        return tokens, list(captions.values())
