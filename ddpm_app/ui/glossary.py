"""The terms of the page, explained once: the Glossary shows all of them, and a dotted term shows its own on hover or tap."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """name: how the page writes it; symbol: the formula's letter, or ""; text: at most two sentences."""

    name: str
    symbol: str
    text: str


TERMS = {
    "t": Term("t", "t", "Time, from 1000 (pure noise) down to 0 (picture)."),
    "sigma": Term("sigma", "σ", "How strong the noise is compared with the picture. At 1 they are equal."),
    "alpha-bar": Term("alpha-bar", "ᾱ", "The picture's share in what you see. The rest, 1 − ᾱ, is noise."),
    "snr": Term("SNR", "ᾱ / (1 − ᾱ)", "Picture divided by noise. Its logarithm, log-SNR, is above 0 when the picture is stronger."),
    "guess": Term("Guess", "x̂₀", "The finished picture as the network expects it at this moment."),
    "guidance": Term("Guidance", "s", "How far the guess is pushed from “any picture” toward “a picture of this class”."),
    "step": Term("Step", "", "One move from more noise to less."),
    "evaluation": Term(
        "Evaluation", "", "One run of the network. With guidance each costs two passes, and Heun needs two evaluations a step."
    ),
    "seed": Term("Seed", "", "The number that fixes the random noise: same seed and settings, same picture."),
    "ddpm": Term("DDPM", "", "The original sampler, which adds fresh noise at each step."),
    "ddim": Term("DDIM", "", "No fresh noise: a fixed path from noise to picture."),
    "fast-samplers": Term("DPM-Solver++, UniPC, Heun", "", "Shortcuts along the fixed path of DDIM, good in 10 to 30 steps."),
    "ema": Term("EMA", "", "The average of recent weights. It draws better than the last ones."),
    "loss": Term("Loss", "", "The mean error of the network's guesses in training."),
    "frechet-distance": Term(
        "Fréchet distance",
        "",
        "How far generated and real pictures lie apart as a crowd, in our own classifier's features (no published FID). Lower is better.",
    ),
    "agreement": Term("Agreement", "", "Share of pictures that a classifier reads as the class asked for."),
    "clip-similarity": Term("CLIP similarity", "", "How well words fit a picture, −1 to 1. Compare within one CLIP only."),
}


def as_json() -> dict[str, list[str]]:
    """{key: [title, text]} for the script of the page."""
    return {key: [title(term), term.text] for key, term in TERMS.items()}


def title(term: Term) -> str:
    """ "sigma, σ": the name, and the symbol where it is another one."""
    return f"{term.name}, {term.symbol}" if term.symbol and term.symbol != term.name else term.name


def term(key: str, words: str = "") -> str:
    """HTML of a word with its explanation on hover, focus and tap. KeyError for an unknown key."""
    return f"<span class='term' tabindex='0' data-term='{key}'>{html.escape(words or TERMS[key].name)}</span>"


def explained(key: str) -> str:
    """A value for elem_classes of a Gradio component: its label gets the explanation. KeyError for an unknown key."""
    return f"explained-{key}" if TERMS[key] else ""
