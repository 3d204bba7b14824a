"""What a Request's steering means for a model: its denoiser guided by CLIP or by a noise-aware classifier, its images scored for
re-ranking. Judges are found in `classifiers/` beside the checkpoints, by the name of the data, and the shipped CLIP by its own."""

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
    """Why CLIP cannot steer a model, one sentence; empty where it can."""
    if config.network.in_channels == 3:
        return ""
    return f"the CLIP that ships has seen colour photos only and reads no {config.data} pictures: steer and rank those by their classifier"


class Steering:
    """The judges that requests ask for, loaded once and kept. roots: directories of checkpoints, in which `classifiers/` is looked for."""

    def __init__(self, roots: Sequence[Path], device: torch.device | str = "cpu"):
        self.roots, self.device = [Path(r) for r in roots], torch.device(device)
        self._loaded: dict[tuple[str, float], Classifier] = {}
        self._lock = threading.Lock()

    # -- the judges -------------------------------------------------------------------------------------------------

    def noisy(self, config: CheckpointConfig) -> Classifier:
        """The noise-aware classifier of a model's data. Raises ValueError where there is none, or none that fits."""
        return self._load(config, noise_aware=True)

    def classifier(self, config: CheckpointConfig) -> Classifier:
        """The classifier of a model's data, which never saw noise. Raises ValueError where there is none, or none that fits."""
        return self._load(config, noise_aware=False)

    def has_noisy(self, config: CheckpointConfig) -> bool:
        return self._find(config.data + "-noisy", description_file(noise_aware=True)) is not None

    def _find(self, name: str, file: str) -> Path | None:
        if name != Path(name).name or name.startswith("."):  # the name comes from a config.json that may be hostile
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
        if (c.image_size, c.in_channels) != (n.image_size, n.in_channels) or config.classes and c.classes != config.classes:
            raise ValueError(f"the {kind} in {path} reads other pictures or classes than this model makes")
        return classifier

    def _clip(self, config: CheckpointConfig):
        if refusal := clip_refusal(config):
            raise ValueError(refusal)
        from ddpm_app.classifiers.clip import load_clip  # open_clip is loaded only when CLIP is asked for

        return load_clip("shipped", self.device)

    def unread(self, request: Request, config: CheckpointConfig) -> list[str]:
        """Words of the request's text that the CLIP steering or ranking by it has never read, so that they mean nothing to it."""
        used = request.text and (request.text_scale or request.candidates > 1 and request.rank_by == "clip")
        return self._clip(config).unknown_words(request.text) if used else []

    def classes(self, request: Request, config: CheckpointConfig) -> tuple[str, ...]:
        """The classes a request may name: the network's; an unconditional one's come from the classifier that guides it or ranks for it."""
        if config.network.num_classes:
            return config.classes
        if request.classifier_scale:
            return self.noisy(config).config.classes
        return self.classifier(config).config.classes if request.candidates > 1 and request.rank_by == "classifier" else ()

    def offered(self, config: CheckpointConfig) -> tuple[str, ...]:
        """The classes that some request to a model may name: its own, or those of the noise-aware classifier of its data."""
        if config.network.num_classes:
            return config.classes
        try:
            return self.noisy(config).config.classes
        except ValueError:
            return ()

    # -- guidance ---------------------------------------------------------------------------------------------------

    def guided(self, denoise: Denoise, request: Request, config: CheckpointConfig, labels: np.ndarray) -> Denoise:
        """The denoiser with the request's guides around it. labels (B,), -1 for none. Raises ValueError for what cannot guide."""
        interval = (request.steer_low, request.steer_high)
        if request.classifier_scale:
            if labels.min() < 0:
                raise ValueError("classifier guidance pulls toward a class, and none is asked for; choose one, any or all")
            label = torch.from_numpy(labels).to(self.device)
            denoise = classifier_guided(denoise, of_class(self.noisy(config).log_probabilities, label), request.classifier_scale, interval)
        if request.text and request.text_scale:
            clip = self._clip(config)
            score = partial(_similarity, clip, clip.text([request.text])[0].to(clip.device))
            denoise = similarity_guided(clipped(denoise), score, request.text_scale, interval, request.text_through)
        return denoise

    # -- re-ranking -------------------------------------------------------------------------------------------------

    def scores(self, request: Request, config: CheckpointConfig, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What request.rank_by thinks of images, uint8 (N, C, H, W) with labels (N,): higher is better, float64 (N,).

        classifier: the probability of the class asked for, the highest of any where none was. clip: the similarity to the text, or
        without one to "a photo of a {class}". Raises ValueError where the judge is missing or has nothing to go by."""
        pictures = torch.from_numpy(np.ascontiguousarray(images))
        if request.rank_by == "classifier":
            probabilities = self.classifier(config).classify(pictures)
            asked = torch.from_numpy(np.where(labels < 0, probabilities.argmax(1).numpy(), labels))
            return probabilities.gather(1, asked[:, None])[:, 0].double().numpy()
        clip = self._clip(config)
        if request.text:
            wanted = clip.text([request.text]).expand(len(images), -1)
        elif labels.min() >= 0:
            from ddpm_app.classifiers.clip_scores import class_prompts

            wanted = clip.text(class_prompts(self.classes(request, config)))[torch.from_numpy(labels)]
        else:
            raise ValueError("ranking by CLIP needs a text or a class to compare with")
        return (clip.images(pictures) * wanted).sum(1).double().numpy()

    def check(self, request: Request, config: CheckpointConfig) -> None:
        """Fail before the denoising rather than after it: load the judge that will rank."""
        if request.candidates > 1:
            self.classifier(config) if request.rank_by == "classifier" else self._clip(config)


def _similarity(clip, text: Tensor, x0: Tensor) -> Tensor:
    return clip.encode(x0) @ text


def best_of(scores: np.ndarray, n: int) -> np.ndarray:
    """(n,) int64: for each of n places the candidate that scores best, of i, i + n, i + 2n, ...; the first of equals."""
    return np.arange(n) + n * scores.reshape(-1, n).argmax(0)
