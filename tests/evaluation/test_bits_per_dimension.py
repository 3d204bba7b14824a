"""Bits per dimension through the engine: where they go, and when they are none."""

import dataclasses

import pytest

from ddpm_app.evaluation import bits
from tests.evaluation.conftest import done, plan

pytestmark = pytest.mark.usefixtures("cache", "no_real_data")


def test_bits_say_how_far_they_can_be_trusted(studio, classifier_folder, model, monkeypatch):
    rows, refused, _ = done(studio, plan(classifier_folder, metrics=("bpd-bound", "bpd-flow"), bits_n=5, draws=3, steps=4))
    assert refused == {} and len(rows["bpd-bound"].detail["levels"]) == 3
    assert sum(r[2] for r in rows["bpd-bound"].detail["levels"]) == pytest.approx(rows["bpd-bound"].detail["L_mid"])
    exact = bits.likelihood.flow_likelihood
    other = [exact(*args, **options).bits for args, options in halves(studio, monkeypatch, classifier_folder)]
    assert rows["bpd-flow"].detail["change from half the steps"] == pytest.approx(other[0] - other[1], abs=1e-6) and other[0] != other[1]

    monkeypatch.setattr(bits.likelihood, "flow_likelihood", lambda *a, **k: dataclasses.replace(exact(*a, **k), bits=-0.25))
    rows, refused, _ = done(studio, plan(classifier_folder, metrics=("bpd-flow",), bits_n=4, steps=2))
    assert rows == {} and "-0.250 bits/dim is below zero" in refused["bpd-flow"] and "2 steps are too few" in refused["bpd-flow"]


def halves(studio, monkeypatch, classifier_folder):
    """The arguments of the two runs on a few images, of all the steps and of half."""
    calls, exact = [], bits.likelihood.flow_likelihood
    with monkeypatch.context() as m:
        m.setattr(bits.likelihood, "flow_likelihood", lambda *a, **k: (calls.append((a, k)), exact(*a, **k))[1])
        done(studio, plan(classifier_folder, metrics=("bpd-flow",), bits_n=5, steps=4))
    assert [(len(a[1]), a[3]) for a, _ in calls] == [(5, 4), (4, 4), (4, 2)]
    return calls[1:]


def test_bits_have_a_reference_of_their_own(studio, classifier_folder, model):
    one = plan(classifier_folder, metrics=("fid", "bpd-bound"), bits_n=2, draws=1, against="train", bits_against="test")
    rows, refused, _ = done(studio, one)
    assert refused == {} and rows["bpd-bound"].protocol["images"] == "first 2 of cifar10 test"
    assert rows["FD-classifier"].protocol["reference"] == "cifar10 train, 120 images"
    rows, _, _ = done(studio, plan(classifier_folder, metrics=("bpd-flow",), bits_n=2, steps=1))
    assert rows["bpd-flow"].detail["change from half the steps"] is None
