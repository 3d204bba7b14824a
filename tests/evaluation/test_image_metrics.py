"""Metrics that look at pictures, where test_evaluation.py does not reach: the order of work, the CLIP that ships."""

import pytest
import torch

from ddpm_app.cli import evaluate
from ddpm_app.evaluation import distances, image_metrics
from ddpm_app.evaluation.image_metrics import balanced, wanted
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.studio.studio import Request
from tests.evaluation.conftest import MODEL, done, plan

pytestmark = pytest.mark.usefixtures("cache", "no_real_data")


def test_metrics_are_ordered_by_feature_network():
    pairs = wanted(("fid", "is", "clip", "neighbours"), ("classifier", "inception"))
    assert pairs == [
        ("neighbours", None), ("fid", "classifier"), ("is", "classifier"), ("neighbours", "classifier"),
        ("fid", "inception"), ("is", "inception"), ("clip", "clip"),
    ]  # fmt: skip


def test_balanced_takes_equally_many_of_each_class():
    labels = torch.tensor([2, 2, 2, 0, 1, 0, 2, 1])
    assert labels[balanced(labels, 3)].sort().values.tolist() == [0, 1, 2] and 0 in balanced(labels, 3)  # the first of its class
    assert labels[balanced(labels, 6)].bincount().tolist() == [2, 2, 2]
    assert sorted(balanced(labels, 100).tolist()) == list(range(8))


def test_a_distance_below_zero_is_explained(studio, classifier_folder, model, monkeypatch):
    monkeypatch.setattr(distances, "extrapolated", lambda *a: distances.Extrapolation(-0.2, 0.3, ((40, 1.0), (80, 0.5))))
    rows, refused, _ = done(studio, plan(classifier_folder))
    assert refused == {} and "note" not in rows["FD-classifier"].detail
    assert image_metrics.BELOW_ZERO in evaluate.line(rows["FD-classifier-infinity"])


def test_the_clip_that_ships_reads_too(studio, classifier_folder, model):
    from ddpm_app.classifiers.clip import load_clip
    from ddpm_app.classifiers.clip_scores import class_prompts, score

    rows, refused, _ = done(studio, plan(classifier_folder, n=20, metrics=("clip", "kid"), features=("clip",)))
    assert refused == {} and set(rows) == {"clip-top1", "clip-matching", "clip-intended", "KD-clip"}
    pictures, labels = studio.images(Request(MODEL, "all", 20, 1.0, "ddim", 2))
    clip = load_clip()
    want = score(
        clip.images(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())),
        clip.text(class_prompts(CIFAR10_CLASSES)),
        torch.from_numpy(labels),
    )
    assert rows["clip-top1"].value == pytest.approx(want.average_top1, abs=1e-5)
    assert (rows["clip-matching"].value, rows["clip-intended"].value) == pytest.approx((want.matching, want.intended), abs=1e-5)
    assert rows["KD-clip"].protocol["features"]["network"] == "CLIP that ships" and "real test images" in rows["clip-top1"].detail
