"""Named sets, mixtures with options, drawn densities, classes and principal axes."""

import math

import numpy as np
import pytest
import torch

from ddpm_app.toy.points import from_points
from ddpm_app.toy.shapes import SHAPES, ToyDataError, drawn, make_data, principal_axes


@pytest.mark.parametrize("name", SHAPES)
def test_named_sets_have_the_moments_of_their_density(name):
    data = make_data(name, n=20_000)
    z = data.to_model(data.x).double()
    assert data.x.shape == (20_000, 2) and bool(data.x.isfinite().all())
    assert float(z.mean(0).abs().max()) < 0.03 and abs(float(z.square().mean()) - 1) < 0.05
    assert torch.allclose(data.from_model(data.to_model(data.x)), data.x, atol=1e-5)
    if data.classes:
        assert sorted(set(data.label.tolist())) == list(range(len(data.classes)))


@pytest.mark.parametrize("noise, rate", [(0.1, 0.999), (0.2, 0.970), (0.25, 0.944)])
def test_the_bayes_classifier_of_two_moons_has_the_known_accuracy(noise, rate):
    data = make_data("moons", n=20_000, noise=noise)
    right = data.truth.class_posterior(data.x).argmax(1) == data.label
    assert abs(float(right.double().mean()) - rate) < 0.005


def test_two_moons_lie_on_the_half_circles_of_scikit_learn():
    x = make_data("moons", n=20_000, noise=0.01)
    upper, lower = x.x[x.label == 0], x.x[x.label == 1]
    assert float((upper.norm(dim=1) - 1).abs().max()) < 0.06 and float(upper[:, 1].min()) > -0.06
    assert float(((lower - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs().max()) < 0.06


def test_the_options_of_a_mixture_set_its_components_spread_layout_and_noise():
    narrow, wide = (make_data("mixture", components=5, spread=s, layout=3) for s in (1.0, 2.0))
    assert len(narrow.classes) == 5 and torch.allclose(wide.truth.means, 2 * narrow.truth.means)
    assert not torch.allclose(make_data("mixture", components=5, layout=4).truth.means, narrow.truth.means)
    assert float(make_data("mixture", noise=0.3).truth.sds[0]) == pytest.approx(0.3) and make_data("mixture", components=1).classes == ()
    for options, sentence in (
        ({"components": 0}, "1 to 50 components"),
        ({"spread": -1.0}, "spread above 0"),
        ({"layout": -1}, "layout is -1"),
    ):
        with pytest.raises(ToyDataError, match=sentence):
            make_data("mixture", **options)


def test_drawn_strokes_become_a_density():
    data = drawn([[(-0.5, 0), (0.5, 0)], [(0, 0.8)]], width=0.02)
    assert float(data.x[:, 0].min()) < -0.45 and abs(float(data.truth.log_prob(torch.tensor([[0.0, 0.0]])).exp())) > 5
    for nothing, sentence in (([], "nothing is drawn yet"), (None, "nothing is drawn yet"), ([[]], "pairs of finite numbers")):
        with pytest.raises(ToyDataError, match=sentence):
            drawn(nothing)
    with pytest.raises(ToyDataError, match="list of"):
        drawn([[(0, math.nan)]])


def test_the_error_names_a_class_without_points():
    data = make_data("moons", n=100)
    assert len(data.of_class(0)) + len(data.of_class(1)) == 100
    with pytest.raises(ToyDataError, match="class 7 of moons has no points"):
        data.of_class(7)


def test_a_subset_is_a_random_choice_of_all_points():
    data = from_points(np.arange(2000.0), "sorted", ["a"] * 1000 + ["b"] * 1000)
    few = data.some(100)
    assert len(few) == 100 and 30 < int(few.label.sum()) < 70 and torch.equal(few.label, (few.x[:, 0] >= 1000).long())
    assert data.some(5000) is data


def test_principal_axes_span_the_plane_of_the_points():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=g) @ torch.randn(2, 10, generator=g) + 3
    axes = principal_axes(x)
    seen = (x - x.mean(0)) @ axes
    assert torch.allclose(axes.T @ axes, torch.eye(2), atol=1e-5)
    assert torch.allclose(seen.square().sum(), (x - x.mean(0)).square().sum(), rtol=1e-4)
    assert principal_axes(torch.randn(9, 1)).shape == (1, 2)
