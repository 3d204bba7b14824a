"""Steering of a Request: guidance of a denoiser by CLIP or by a noise-aware classifier, and scores of images for re-ranking.

Classifiers lie in `classifiers/` beside the checkpoints and are named after their data: `cifar10`, and `cifar10-noisy` if noise-aware."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import CheckpointConfig
from ddpm_app.classifiers.classifier import Classifier, description_file, load_classifier
from ddpm_app.diffusion.guidance import Denoise, classifier_guided, clipped, of_class, similarity_guided
from ddpm_app.studio.request import Request


def clip_refusal(config: CheckpointConfig) -> str:
    """One sentence why CLIP cannot steer a model; empty if it can."""
    if config.network.in_channels == 3:
        return ""
    return (
        f"the shipped CLIP was trained on colour photos only and cannot read {config.data} images; steer and rank these by their classifier"
    )


class Steering:
    """Loads the classifiers that requests need and keeps them in memory. roots: directories that may hold `classifiers/`."""

    def __init__(self, roots: Sequence[Path], device: torch.device | str = "cpu"):
        self.roots, self.device = [Path(r) for r in roots], torch.device(device)
        self._loaded: dict[tuple[str, float], Classifier] = {}
        self._lock = threading.Lock()

    # -- classifiers ------------------------------------------------------------------------------------------------

    def noisy(self, config: CheckpointConfig) -> Classifier:
        """The noise-aware classifier for a model's data. Raises ValueError if there is none that fits."""
        return self._load(config, noise_aware=True)

    def classifier(self, config: CheckpointConfig) -> Classifier:
        """The classifier for a model's data, trained without noise. Raises ValueError if there is none that fits."""
        return self._load(config, noise_aware=False)

    def has_noisy(self, config: CheckpointConfig) -> bool:
        return self._find(config.data + "-noisy", description_file(noise_aware=True)) is not None

    def _find(self, name: str, file: str) -> Path | None:
        if name != Path(name).name or name.startswith("."):  # config.json may be malicious: accept no path
            return None
        return next((r / "classifiers" / name for r in self.roots if (r / "classifiers" / name / file).is_file()), None)

    def _load(self, config: CheckpointConfig, noise_aware: bool) -> Classifier:
        kind, suffix, flag = ("noise-aware classifier", "-noisy", "--noisy ") if noise_aware else ("classifier", "", "")
        file = description_file(noise_aware)
        path = self._find(config.data + suffix, file)
        if path is None:
            raise ValueError(
                f"there is no {kind} of {config.data[:80]!r} in checkpoints/classifiers; train one with python train/train_classifier.py "
                f"{flag}--data {config.data[:80]} --minutes 5 --out checkpoints/classifiers/{config.data[:80]}{suffix}"
            )
        key = (str(path), (path / file).stat().st_mtime)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load_classifier(path, self.device, noise_aware)
            classifier = self._loaded[key]
        c, n = classifier.config, config.network
        if c.image_shape != n.image_shape or config.classes and c.classes != config.classes:
            raise ValueError(f"the {kind} in {path} was trained on images of another shape or on other classes than this model")
        return classifier

    def _clip(self, config: CheckpointConfig):
        if refusal := clip_refusal(config):
            raise ValueError(refusal)
        from ddpm_app.classifiers.clip import load_clip  # imported here: open_clip loads slowly

        return load_clip("shipped", self.device)

    def unknown_words(self, request: Request, config: CheckpointConfig) -> list[str]:
        """Words of the request's text that were not in CLIP's training captions and so have no effect; [] if the text is not used."""
        used = request.text and (request.text_scale or request.candidates > 1 and request.rank_by == "clip")
        return self._clip(config).unknown_words(request.text) if used else []

    def classes(self, request: Request, config: CheckpointConfig) -> tuple[str, ...]:
        """The classes that this request may name: the model's, or without any those of the classifier that guides or ranks."""
        if config.network.num_classes:
            return config.classes
        if request.classifier_scale:
            return self.noisy(config).config.classes
        return self.classifier(config).config.classes if request.candidates > 1 and request.rank_by == "classifier" else ()

    def offered(self, config: CheckpointConfig) -> tuple[str, ...]:
        """The classes that any request to a model may name: the model's, else those of the noise-aware classifier for its data, else ()."""
        if config.network.num_classes:
            return config.classes
        try:
            return self.noisy(config).config.classes
        except ValueError:
            return ()

    # -- guidance ---------------------------------------------------------------------------------------------------

    def guided(self, denoise: Denoise, request: Request, config: CheckpointConfig, labels: np.ndarray) -> Denoise:
        """The denoiser with the request's guidance. labels: (B,), -1 is none. Raises ValueError if the guidance is impossible."""
        interval = (request.steer_low, request.steer_high)
        if request.classifier_scale:
            if labels.min() < 0:
                raise ValueError("label is 'none'; classifier guidance needs a class: a name, an index, any or all")
            label = torch.from_numpy(labels).to(self.device)
            denoise = classifier_guided(denoise, of_class(self.noisy(config).log_probabilities, label), request.classifier_scale, interval)
        if request.text and request.text_scale:
            clip = self._clip(config)
            score = partial(_similarity, clip, clip.text([request.text])[0].to(clip.device))
            denoise = similarity_guided(clipped(denoise), score, request.text_scale, interval, request.text_through)
        return denoise

    # -- re-ranking -------------------------------------------------------------------------------------------------

    def scores(self, request: Request, config: CheckpointConfig, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """float64 (N,): the scores of images, uint8 (N, C, H, W), with labels (N,), -1 is none. Higher is better.

        rank_by "classifier": the probability of the image's label, or without a label the highest probability of any class
        rank_by "clip":       the similarity to the text, or without a text to "a photo of a {class}"
        Raises ValueError if there is no classifier that fits, or neither a text nor a class.
        """
        pictures = torch.from_numpy(np.ascontiguousarray(images))
        if request.rank_by == "classifier":
            probabilities = self.classifier(config).classify(pictures)
            target = torch.from_numpy(np.where(labels < 0, probabilities.argmax(1).numpy(), labels))
            return probabilities.gather(1, target[:, None])[:, 0].double().numpy()
        clip = self._clip(config)
        if request.text:
            target = clip.text([request.text]).expand(len(images), -1)
        elif labels.min() >= 0:
            from ddpm_app.classifiers.clip_scores import class_prompts

            target = clip.text(class_prompts(self.classes(request, config)))[torch.from_numpy(labels)]
        else:
            raise ValueError("ranking by CLIP needs a text or a class; the request has neither")
        return (clip.images(pictures) * target).sum(1).double().numpy()

    def check(self, request: Request, config: CheckpointConfig) -> None:
        """Load what re-ranking needs. Raises ValueError if it is missing: before the sampling, not after it."""
        if request.candidates > 1:
            self.classifier(config) if request.rank_by == "classifier" else self._clip(config)


def _similarity(clip, text: Tensor, x0: Tensor) -> Tensor:
    return clip.encode(x0) @ text


def best_of(scores: np.ndarray, n: int) -> np.ndarray:
    """(n,) int64: for each image i the candidate of i, i + n, i + 2n, ... with the highest score; among equal scores the first."""
    return np.arange(n) + n * scores.reshape(-1, n).argmax(0)
