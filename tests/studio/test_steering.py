"""Steering and re-ranking of a Request: its effect, its errors, and identical pixels from the page, the CLI and the API."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.classifiers import clip as clip_labels
from ddpm_app.classifiers.clip_scores import class_prompts
from ddpm_app.cli import main as cli
from ddpm_app.images.datasets import CIFAR10_CLASSES, MNIST_CLASSES
from ddpm_app.images.pixels import to_model
from ddpm_app.studio import png_settings
from ddpm_app.studio.exports import image_png, request_from_settings
from ddpm_app.studio.request import Request
from ddpm_app.studio.steering import Steering, best_of


class Brightness:
    """Replaces CLIP: the features of a text are one of two directions, light or dark; those of an image lie between them."""

    device = torch.device("cpu")

    def text(self, prompts):
        return torch.tensor([[1.0, 0.0] if "light" in p else [0.0, 1.0] for p in prompts])

    def encode(self, x):
        angle = (1 - x.mean((1, 2, 3))) * torch.pi / 4
        return torch.stack([angle.cos(), angle.sin()], 1)

    def unknown_words(self, prompt):
        return [w for w in prompt.split() if w.startswith("z")]

    def images(self, images):
        return self.encode(to_model(images))


@pytest.fixture(autouse=True)
def light_and_dark(monkeypatch):
    monkeypatch.setattr(clip_labels, "load_clip", lambda name, device: Brightness())


def ask(**changes) -> Request:
    return Request(**{"checkpoint": "cifar10-random", "n": 4, "evaluations": 5, "label": "cat", "seed": 5, **changes})


def final(studio, request, **kwargs):
    return list(studio.sample(request, **kwargs))[-1]


def same(a, b) -> bool:
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


STEERED = {
    "x0": {"text": "light", "text_scale": 30.0, "text_through": "x0"},
    "text": {"text": "light", "text_scale": 30.0},
    "classifier": {"classifier_scale": 3.0},
    "both": {"text": "dark", "classifier_scale": 2.0},
}


@pytest.mark.parametrize("kind", STEERED)
@pytest.mark.parametrize("sampler, more", [("dpmpp-2m", {}), ("heun", {"churn": 20.0}), ("ddpm", {"guidance": 0.0})])
def test_a_steered_image_is_the_same_in_a_batch_alone_and_from_its_png(studio, kind, sampler, more):
    request = ask(label="any", sampler=sampler, steer_low=0.05, steer_high=20.0, **STEERED[kind], **more)
    batch = final(studio, request)
    assert not same(batch.x, final(studio, ask(label="any", sampler=sampler, **more)).x)
    alone = final(studio, dataclasses.replace(request, n=1, seed=request.seed + 2))
    assert alone.labels[0] == batch.labels[2] and same(alone.x[0], batch.x[2])
    again = request_from_settings(png_settings.read(image_png(batch.x[2], request, 2, int(batch.labels[2]))), CIFAR10_CLASSES)
    assert same(final(studio, again).x[0], batch.x[2])
    assert {k: getattr(again, k) for k in STEERED[kind]} == STEERED[kind] and again.steer_high == 20.0


def test_clip_guidance_moves_the_image_toward_the_text(studio):
    shade = {t: final(studio, ask(text=t, text_scale=500.0)).x.mean() for t in ("light", "dark")}
    plain = final(studio, ask()).x.mean()
    assert shade["light"] > plain + 10 and shade["dark"] < plain - 10
    assert (final(studio, ask(text="light", text_scale=0.0)).x == final(studio, ask()).x).all()  # scale 0 is off
    never = final(studio, ask(text="light", steer_low=1e5, steer_high=1e6))
    assert (never.x == final(studio, ask()).x).all()


def test_classifier_guidance_raises_the_probability_of_the_class(studio):
    """The classifier's own log-probability of the final images, from the same noise with and without guidance by it."""
    noisy = studio.steering.noisy(studio.checkpoint("cifar10-random").config)

    def log_probability(**changes):
        frame = final(studio, ask(label="all", n=10, guidance=0.0, **changes))
        log_p = noisy.log_probabilities(to_model(torch.from_numpy(frame.x)), 0.0)
        return float(log_p[torch.arange(10), torch.from_numpy(frame.labels)].mean())

    assert log_probability(classifier_scale=50.0) > log_probability() + 0.2


def test_an_unconditional_model_takes_classes_from_the_classifier(studio):
    request = ask(checkpoint="plain-random", label="ship", classifier_scale=5.0)
    frame = final(studio, request)
    assert frame.labels.tolist() == [8] * 4
    other = final(studio, dataclasses.replace(request, label="cat"))
    assert not same(frame.x, other.x)
    with pytest.raises(ValueError, match="no classes"):
        final(studio, dataclasses.replace(request, classifier_scale=0.0))


def test_offered_classes_come_from_the_model_or_its_noise_aware_classifier(studio):
    offered = {name: studio.steering.offered(studio.checkpoint(name).config) for name in ("plain-random", "mnist-random")}
    assert offered == {"plain-random": CIFAR10_CLASSES, "mnist-random": MNIST_CLASSES}
    unknown_data = dataclasses.replace(studio.checkpoint("plain-random").config, data="unheard-of")
    assert studio.steering.offered(unknown_data) == ()


def test_words_unknown_to_clip_are_listed_if_clip_is_used(studio):
    config = studio.checkpoint("cifar10-random").config
    assert studio.steering.unknown_words(ask(text="light zyx"), config) == ["zyx"]
    for unused in ({"text": "light zyx", "text_scale": 0.0}, {"text": ""}, {"text": "zyx", "text_scale": 0.0, "candidates": 2}):
        assert studio.steering.unknown_words(ask(**unused), config) == []
    assert studio.steering.unknown_words(ask(text="zyx", text_scale=0.0, candidates=2, rank_by="clip"), config) == ["zyx"]


def test_best_of_returns_the_first_highest_score_of_each_image():
    scores = np.array([[0.1, 0.9, 0.3], [0.5, 0.2, 0.3], [0.4, 0.95, 0.1]])
    assert best_of(scores.ravel(), 3).tolist() == [3, 7, 2]  # the first of equals


@pytest.mark.parametrize("rank", [{"rank_by": "classifier"}, {"rank_by": "clip", "text": "light", "text_scale": 0.0}, {"rank_by": "clip"}])
def test_re_ranking_keeps_the_best_candidates_and_their_pngs_reproduce_them(studio, rank):
    request = ask(label="all", n=3, candidates=4, **rank)
    ranked = studio.ranked(request)
    every = final(studio, request)
    assert len(every.x) == 12 and every.labels.tolist() == [0, 1, 2] * 4 and ranked.labels.tolist() == [0, 1, 2]
    config = studio.checkpoint(request.checkpoint).config
    if rank["rank_by"] == "classifier":
        p = studio.steering.classifier(config).classify(torch.from_numpy(every.x)).numpy()
        want = p[np.arange(12), every.labels]
    else:
        clip = Brightness()
        wanted = clip.text(["light"] * 12 if "text" in rank else [class_prompts(CIFAR10_CLASSES)[k] for k in every.labels])
        want = (clip.images(torch.from_numpy(every.x)) * wanted).sum(1).numpy()
    assert np.allclose(ranked.scores.ravel(), want, atol=1e-6)
    assert ranked.chosen.tolist() == [int(max(range(i, 12, 3), key=lambda j: want[j])) for i in range(3)]
    assert len(set(ranked.chosen // 3)) > 1  # not always the first candidate
    for i, j in enumerate(ranked.chosen):
        assert (ranked.images[i].transpose(2, 0, 1) == every.x[j]).all()
        again = request_from_settings(png_settings.read(image_png(every.x[j], request, int(j), int(ranked.labels[i]))), CIFAR10_CLASSES)
        assert again.candidates == 1 and again.seed == request.seed + j and same(final(studio, again).x[0], every.x[j])


def test_re_ranking_in_batches_keeps_the_best_candidates(studio):
    request = ask(n=50, candidates=3, evaluations=1, label="any")
    seen = []
    ranked = studio.ranked(request, lambda k, n: seen.append((k, n)))
    assert seen == [(64, 150), (128, 150), (150, 150)] and ranked.images.shape == (50, 16, 16, 3) and ranked.scores.shape == (3, 50)
    assert (ranked.chosen == best_of(ranked.scores.ravel(), 50)).all() and (
        ranked.labels == studio.images(ask(n=50, evaluations=1, label="any"))[1]
    ).all()
    one = int(ranked.chosen[7])
    alone = studio.images(ask(n=1, seed=5 + one, label=str(ranked.labels[7]), evaluations=1))[0]
    assert same(alone[0], ranked.images[7])
    with pytest.raises(ValueError, match="50 images of 3 candidates are 150; at most 64"):
        next(studio.sample(request))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text": "x" * 301}, "at most 300 letters"),
        ({"text": "a\nb"}, "one line"),
        ({"text": 3}, "text is 3"),
        ({"text_scale": float("inf")}, "text_scale is inf; a number from 0 to 500"),
        ({"classifier_scale": -1}, "classifier_scale is -1"),
        ({"steer_low": 3.0, "steer_high": 3.0}, "steering interval"),
        ({"steer_low": float("nan")}, "steer_low is nan; a number of 0 or more"),
        ({"candidates": 0}, "candidates is 0; a whole number from 1 to 64"),
        ({"candidates": 2.0}, "candidates is 2.0"),
        ({"text_through": "x1"}, "did you mean 'x0'"),
        ({"rank_by": "klip"}, "did you mean 'clip'"),
    ],
)
def test_bad_values_are_refused_with_the_accepted_ones(change, message):
    with pytest.raises(ValueError, match=message):
        ask(**change)


def test_impossible_steering_is_refused_before_sampling(studio, tmp_path, roots):
    from tests.conftest import make_checkpoint

    make_checkpoint(roots[0] / "elsewhere", size=16, data="../random")
    for change, message in (
        ({"checkpoint": "mnist-random", "label": "7", "text": "light"}, "cannot read random-grey images; .* by their classifier"),
        ({"checkpoint": "mnist-random", "label": "7", "candidates": 2, "rank_by": "clip"}, "colour photos only"),
        ({"label": "none", "classifier_scale": 1.0}, "classifier guidance needs a class"),
        ({"checkpoint": "elsewhere", "classifier_scale": 1.0}, "no noise-aware classifier of '../random'"),
        ({"checkpoint": "elsewhere", "candidates": 2}, "train one with python train/train_classifier.py --data"),
    ):
        with pytest.raises(ValueError, match=message):
            next(studio.sample(ask(**change)))
        with pytest.raises(ValueError, match=message):
            studio.images(ask(**change))
    make_checkpoint(roots[0] / "elsewhere", size=32)  # data with a classifier, images of another size
    with pytest.raises(ValueError, match="images of another shape"):
        next(studio.sample(ask(checkpoint="elsewhere", classifier_scale=1.0)))
    assert not Steering(roots).has_noisy(dataclasses.replace(studio.checkpoint("elsewhere").config, data="nothing"))
    with pytest.raises(ValueError, match="needs a text or a class"):
        studio.images(ask(label="none", candidates=2, rank_by="clip"))


def test_python_and_command_of_a_request_give_the_same_pixels(studio, roots, tmp_path, monkeypatch):
    """Also for a text with a dash at its start and quotes."""
    import shlex

    from ddpm_app.studio.studio import Studio

    request = ask(n=2, text='--light it\'s "on"', text_scale=50.0, classifier_scale=2.0, candidates=3, rank_by="clip", steer_high=9.0)
    want = studio.images(request)[0]
    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))
    scope: dict = {}
    exec(request.as_python(), scope)
    assert (scope["images"] == want).all()
    words = shlex.split(request.as_command().replace("samples.npz", str(tmp_path / "s.npz")))
    assert cli.main(words[3:]) == 0
    with np.load(tmp_path / "s.npz") as z:
        assert (z["arr_0"] == want).all()
    assert cli.main([*words[3:-1], str(tmp_path / "folder")]) == 0
    files = sorted((tmp_path / "folder").glob("*.png"))
    kept = studio.ranked(request).chosen
    assert [png_settings.read(f)["seed"] for f in files] == [5 + int(j) for j in kept]
    assert (np.asarray(Image.open(io.BytesIO(files[1].read_bytes()))) == want[1]).all()
