"""Numbers from a classifier's probabilities, compared with calculations by hand."""

import math

import pytest
import torch

from ddpm_app.classifiers.metrics import (
    calibration_error,
    classifier_agreement,
    distance_from_uniform,
    expected_distance,
    reliability,
    wilson_interval,
)


def test_numbers_match_a_calculation_by_hand():
    probabilities = torch.tensor([[0.9375, 0.0625, 0.0], [0.125, 0.75, 0.125], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    r = classifier_agreement(probabilities, torch.tensor([0, 1, 1, -1]))
    assert r.n == 4 and r.labelled == 3 and r.class_counts == (2, 1, 1)
    assert r.confidence == pytest.approx((0.9375 + 0.75 + 0.5 + 0.8) / 4)
    assert r.agreement == pytest.approx(2 / 3) and r.agreement_interval[0] < 2 / 3 < r.agreement_interval[1]
    assert r.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 0))  # a row a class asked for
    assert r.agreement_by_class == (1.0, 0.5, None)
    assert r.distance_from_uniform == pytest.approx(1 / 6) and [b.n for b in r.bins] == [0, 0, 0, 0, 0, 1, 0, 1, 0, 1]
    assert r.calibration_error == pytest.approx((0.0625 + 0.25 + 0.5) / 3)


def test_without_labels_there_is_no_agreement():
    for labels in (None, torch.full((5,), -1)):
        r = classifier_agreement(torch.full((5, 4), 0.25), labels)
        assert r.agreement is None and r.calibration_error is None and r.confusion == () and r.confidence == 0.25


def test_distance_from_uniform_has_its_known_values():
    assert distance_from_uniform(torch.tensor([5, 5, 5, 5])) == 0
    assert distance_from_uniform(torch.tensor([20, 0, 0, 0])) == pytest.approx(0.75)
    draws = torch.randint(0, 10, (300, 1000), generator=torch.Generator().manual_seed(0))
    by_chance = sum(distance_from_uniform(torch.bincount(row, minlength=10)) for row in draws) / 300
    assert expected_distance(1000, 10) == pytest.approx(by_chance, rel=0.05)


def test_calibration_error_of_a_calibrated_and_of_an_overconfident_classifier():
    g = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(20_000, generator=g, dtype=torch.float64)
    right = torch.rand(20_000, generator=g, dtype=torch.float64) < confidence
    assert calibration_error(reliability(confidence, right)) < 0.02
    assert calibration_error(reliability(torch.full((1000,), 0.99), torch.arange(1000) % 2 == 0)) == pytest.approx(0.49)
    bins = reliability(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))
    assert bins[9].n == 1 and bins[0].n == 1 and math.isnan(bins[4].accuracy)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match="a label is 3; the classifier has 3 classes"):
        classifier_agreement(torch.full((2, 3), 1 / 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="with a label each"):
        classifier_agreement(torch.full((2, 3), 1 / 3), torch.tensor([0]))


@pytest.mark.parametrize(
    "hits, n, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (95, 100, 0.8882, 0.9785)]
)
def test_the_wilson_interval_equals_published_tables(hits, n, low, high):
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=6e-5)  # tables of Newcombe 1998 and Agresti & Coull
    with pytest.raises(ValueError, match="is not a share"):
        wilson_interval(n + 1, n)
