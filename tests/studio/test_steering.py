"""Guides and re-ranking through a Request: the same pixels at every door, what was asked for is what was steered toward."""

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
from ddpm_app.images import png_settings
from ddpm_app.images.datasets import CIFAR10_CLASSES, MNIST_CLASSES
from ddpm_app.images.pixels import to_model
from ddpm_app.studio.exports import image_png, request_from_settings
from ddpm_app.studio.request import Request
from ddpm_app.studio.steering import Steering, best_of


class Brightness:
    """Stands for CLIP where its weights do not matter: a text is one of two directions, light or dark, an image lies between them."""

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
def test_an_image_is_the_same_alone_and_from_its_png(studio, kind, sampler, more):
    request = ask(label="any", sampler=sampler, steer_low=0.05, steer_high=20.0, **STEERED[kind], **more)
    batch = final(studio, request)
    assert not same(batch.x, final(studio, ask(label="any", sampler=sampler, **more)).x)
    alone = final(studio, dataclasses.replace(request, n=1, seed=request.seed + 2))
    assert alone.labels[0] == batch.labels[2] and same(alone.x[0], batch.x[2])
    again = request_from_settings(png_settings.read(image_png(batch.x[2], request, 2, int(batch.labels[2]))), CIFAR10_CLASSES)
    assert same(final(studio, again).x[0], batch.x[2])
    assert {k: getattr(again, k) for k in STEERED[kind]} == STEERED[kind] and again.steer_high == 20.0


def test_a_text_moves_the_picture_its_way(studio):
    shade = {t: final(studio, ask(text=t, text_scale=500.0)).x.mean() for t in ("light", "dark")}
    plain = final(studio, ask()).x.mean()
    assert shade["light"] > plain + 10 and shade["dark"] < plain - 10
    assert (final(studio, ask(text="light", text_scale=0.0)).x == final(studio, ask()).x).all()  # scale 0 is off
    never = final(studio, ask(text="light", steer_low=1e5, steer_high=1e6))
    assert (never.x == final(studio, ask()).x).all()


def test_a_classifier_pulls_toward_the_class_asked_for(studio):
    """In its own eyes, at the end: an unconditional run (guidance 0) of the same noise, with and without."""
    noisy = studio.steering.noisy(studio.checkpoint("cifar10-random").config)

    def believed(**changes):
        frame = final(studio, ask(label="all", n=10, guidance=0.0, **changes))
        log_p = noisy.log_probabilities(to_model(torch.from_numpy(frame.x)), 0.0)
        return float(log_p[torch.arange(10), torch.from_numpy(frame.labels)].mean())

    assert believed(classifier_scale=50.0) > believed() + 0.2


def test_an_unconditional_model_gets_classes_from_its_classifier(studio):
    request = ask(checkpoint="plain-random", label="ship", classifier_scale=5.0)
    frame = final(studio, request)
    assert frame.labels.tolist() == [8] * 4
    other = final(studio, dataclasses.replace(request, label="cat"))
    assert not same(frame.x, other.x)
    with pytest.raises(ValueError, match="no classes"):
        final(studio, dataclasses.replace(request, classifier_scale=0.0))


def test_what_a_menu_may_offer(studio):
    offered = {name: studio.steering.offered(studio.checkpoint(name).config) for name in ("plain-random", "mnist-random")}
    assert offered == {"plain-random": CIFAR10_CLASSES, "mnist-random": MNIST_CLASSES}
    stranger = dataclasses.replace(studio.checkpoint("plain-random").config, data="unheard-of")
    assert studio.steering.offered(stranger) == ()


def test_words_that_clip_has_never_read_are_named(studio):
    config = studio.checkpoint("cifar10-random").config
    assert studio.steering.unknown_words(ask(text="light zyx"), config) == ["zyx"]
    for silent in ({"text": "light zyx", "text_scale": 0.0}, {"text": ""}, {"text": "zyx", "text_scale": 0.0, "candidates": 2}):
        assert studio.steering.unknown_words(ask(**silent), config) == []
    assert studio.steering.unknown_words(ask(text="zyx", text_scale=0.0, candidates=2, rank_by="clip"), config) == ["zyx"]


def test_the_best_candidate_of_each_place():
    scores = np.array([[0.1, 0.9, 0.3], [0.5, 0.2, 0.3], [0.4, 0.95, 0.1]])
    assert best_of(scores.ravel(), 3).tolist() == [3, 7, 2]  # the first of equals


@pytest.mark.parametrize("rank", [{"rank_by": "classifier"}, {"rank_by": "clip", "text": "light", "text_scale": 0.0}, {"rank_by": "clip"}])
def test_re_ranking_keeps_the_best_and_each_kept_image_stands_alone(studio, rank):
    request = ask(label="all", n=3, candidates=4, **rank)
    found = studio.ranked(request)
    every = final(studio, request)
    assert len(every.x) == 12 and every.labels.tolist() == [0, 1, 2] * 4 and found.labels.tolist() == [0, 1, 2]
    config = studio.checkpoint(request.checkpoint).config
    if rank["rank_by"] == "classifier":
        p = studio.steering.classifier(config).classify(torch.from_numpy(every.x)).numpy()
        want = p[np.arange(12), every.labels]
    else:
        clip = Brightness()
        wanted = clip.text(["light"] * 12 if "text" in rank else [class_prompts(CIFAR10_CLASSES)[k] for k in every.labels])
        want = (clip.images(torch.from_numpy(every.x)) * wanted).sum(1).numpy()
    assert np.allclose(found.scores.ravel(), want, atol=1e-6)
    assert found.chosen.tolist() == [int(max(range(i, 12, 3), key=lambda j: want[j])) for i in range(3)]
    assert len(set(found.chosen // 3)) > 1  # not always the first: something was rejected
    for i, j in enumerate(found.chosen):
        assert (found.images[i].transpose(2, 0, 1) == every.x[j]).all()
        again = request_from_settings(png_settings.read(image_png(every.x[j], request, int(j), int(found.labels[i]))), CIFAR10_CLASSES)
        assert again.candidates == 1 and again.seed == request.seed + j and same(final(studio, again).x[0], every.x[j])


def test_re_ranking_a_large_request_in_batches(studio):
    request = ask(n=50, candidates=3, evaluations=1, label="any")
    seen = []
    found = studio.ranked(request, lambda k, n: seen.append((k, n)))
    assert seen == [(64, 150), (128, 150), (150, 150)] and found.images.shape == (50, 16, 16, 3) and found.scores.shape == (3, 50)
    assert (found.chosen == best_of(found.scores.ravel(), 50)).all() and (
        found.labels == studio.images(ask(n=50, evaluations=1, label="any"))[1]
    ).all()
    one = int(found.chosen[7])
    alone = studio.images(ask(n=1, seed=5 + one, label=str(found.labels[7]), evaluations=1))[0]
    assert same(alone[0], found.images[7])
    with pytest.raises(ValueError, match="50 images of 3 candidates are 150; at most 64"):
        next(studio.sample(request))


@pytest.mark.parametrize(
    "change, says",
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
def test_bad_requests_say_what_is_accepted(change, says):
    with pytest.raises(ValueError, match=says):
        ask(**change)


def test_what_cannot_steer_says_so_before_anything_is_denoised(studio, tmp_path, roots):
    from tests.conftest import make_checkpoint

    make_checkpoint(roots[0] / "elsewhere", size=16, data="../random")
    for change, says in (
        ({"checkpoint": "mnist-random", "label": "7", "text": "light"}, "cannot read random-grey images; .* by their classifier"),
        ({"checkpoint": "mnist-random", "label": "7", "candidates": 2, "rank_by": "clip"}, "colour photos only"),
        ({"label": "none", "classifier_scale": 1.0}, "classifier guidance needs a class"),
        ({"checkpoint": "elsewhere", "classifier_scale": 1.0}, "no noise-aware classifier of '../random'"),
        ({"checkpoint": "elsewhere", "candidates": 2}, "train one with python train/train_classifier.py --data"),
    ):
        with pytest.raises(ValueError, match=says):
            next(studio.sample(ask(**change)))
        with pytest.raises(ValueError, match=says):
            studio.images(ask(**change))
    make_checkpoint(roots[0] / "elsewhere", size=32)  # the right name, other pictures
    with pytest.raises(ValueError, match="images of another shape"):
        next(studio.sample(ask(checkpoint="elsewhere", classifier_scale=1.0)))
    assert not Steering(roots).has_noisy(dataclasses.replace(studio.checkpoint("elsewhere").config, data="nothing"))
    with pytest.raises(ValueError, match="needs a text or a class"):
        studio.images(ask(label="none", candidates=2, rank_by="clip"))


def test_shown_code_and_command_give_the_same_pixels(studio, roots, tmp_path, monkeypatch):
    """A text that begins with a dash and holds quotes, too."""
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
