"""CIFAR-10's captions: the search terms under which its pictures were found, in sentences, as tokens."""

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
WORDS = {"airplane": ("airplane", "plane"), "automobile": ("automobile", "car"), "ship": ("ship", "boat")}  # what people call a class
UNKNOWN = 49000  # any token that no caption holds: their rows are all zero


class Pictures(NamedTuple):
    """data: the images. term: (N,) index into terms, the words under which each was found."""

    data: ImageData
    term: Tensor
    terms: tuple[str, ...]


def file_names(part: str) -> list[str]:
    """CIFAR-10's file names, in the order of load_data: from its .npz, else from the batches that torchvision downloaded and checked."""
    for root in paths.data_roots():
        file = root / f"cifar10-{part}.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as arrays:
                if "filenames" not in arrays.files:
                    raise ValueError(f"{file} holds no filenames, which the captions are made from")
                return [str(name) for name in arrays["filenames"]]
    from torchvision import datasets

    raw = datasets.CIFAR10(str(paths.download_dir()), train=part == "train")  # MD5s hold
    names = []
    for batch, _ in raw.train_list if part == "train" else raw.test_list:
        with open(Path(raw.root) / raw.base_folder / batch, "rb") as f:
            names += pickle.load(f, encoding="latin1")["filenames"]
    return names


def term_of(name: str) -> str:
    """ "tabby_cat_s_000123" or "tabby_cat_s_000123.png" -> "tabby cat"."""
    return re.sub(r"_s_\d+(\.png)?$", "", name).replace("_", " ")


def load(part: str) -> Pictures:
    data, found = load_data("cifar10", part), [term_of(name) for name in file_names(part)]
    terms = tuple(sorted(set(found)))
    index = {term: k for k, term in enumerate(terms)}
    return Pictures(data, torch.tensor([index[t] for t in found]), terms)


def with_article(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def caption(term: str, label: str, draw: random.Random) -> tuple[str, bool]:
    """(a caption, whether it speaks of the class alone) for a picture found under `term`, of class `label`.

    Half of them say "a" before a vowel, too, as the ten prompts do. A term that is also a word for the class ("car") is told
    from it by ", a type of automobile"."""
    template, of_class, names = draw.choice(TEMPLATES), draw.random() < 0.45, WORDS.get(label, (label,))
    if of_class:
        text = template.format(draw.choice(names))
    else:
        text = template.format(term) + (f", a type of {label}" if term in names or draw.random() < 0.6 else "")
    return (text if draw.random() < 0.5 else with_article(text)), of_class


class Captioner:
    """Captions of a batch, as tokens; each distinct one once."""

    def __init__(self, terms: tuple[str, ...], classes: tuple[str, ...], tokenizer, context: int, seed: int):
        self.terms, self.classes, self.context, self.draw = terms, classes, context, random.Random(seed)
        self.encode = functools.lru_cache(None)(tokenizer.encode)
        self.start, self.end = tokenizer.sot_token_id, tokenizer.eot_token_id

    def known(self, pairs: set[tuple[int, int]]) -> Tensor:
        """bool (vocabulary,): the tokens of every caption that these (term, label) pairs can get."""
        found = torch.zeros(49408, dtype=torch.bool)
        found[[self.start, self.end]] = True
        for term, label in pairs:
            for words in {self.terms[term], *WORDS.get(self.classes[label], (self.classes[label],))}:
                for text in (words, f"{words}, a type of {self.classes[label]}", f"an {words}"):
                    found[self.encode(text)] = True
        for template in TEMPLATES:
            found[self.encode(template.format("cat"))] = True
        return found

    def __call__(self, term: Tensor, label: Tensor) -> tuple[Tensor, list[tuple[int, int, bool]]]:
        """tokens (U, context), and of each caption (term, label, of the class alone)."""
        made: dict[str, tuple[int, int, bool]] = {}
        for t, c in zip(term.tolist(), label.tolist()):
            text, of_class = caption(self.terms[t], self.classes[c], self.draw)
            made.setdefault(text, (t, c, of_class))
        tokens = torch.zeros(len(made), self.context, dtype=torch.long)
        for row, text in zip(tokens, made):
            words = list(self.encode(text))
            for _ in range(self.draw.choice((0, 0, 1, 2, 3))):
                words.insert(self.draw.randint(0, len(words)), UNKNOWN)
            words = [self.start, *words[: self.context - 2], self.end]
            row[: len(words)] = torch.tensor(words)
        return tokens, list(made.values())
