"""The lab's use cases: trajectories, fields, densities and clouds as plain numbers."""

import dataclasses

import numpy as np
import pytest
import torch

from ddpm_app.toy import playground as use_cases
from ddpm_app.toy.checkpoint import load_toy
from ddpm_app.toy.playground import ROOT, Lab, PlaneRequest, Setup
from ddpm_app.toy.points import from_points
from ddpm_app.toy.shapes import ToyDataError, make_data
from ddpm_app.toy.training import ToyTrainConfig


def frames_of(move):
    return np.frombuffer(move["frames"], "<i2").reshape(len(move["sigma"]), move["n"], 2)


def test_the_shipped_models_belong_to_their_named_sets():
    models = {name: load_toy(ROOT / name) for name in ("moons", "moons-classes", "eight-gaussians")}
    for model in models.values():
        assert {m["name"] for m in model.metrics} >= {"EMD", "NLL, ODE", "NLL, bound"} and (model.path / "README.md").is_file()
    for name in ("moons", "eight-gaussians"):
        assert Lab().setup(name).denoiser is not None
    assert Lab().setup("moons", 0.3).denoiser is None  # other data than the shipped model's
    assert models["moons"].denoiser.network.config.num_classes == 0 and models["moons-classes"].classes == ("upper", "lower")


def test_trajectories_end_where_the_data_is():
    setup = Lab().setup("moons")
    for which in ("learned", "exact", "points"):
        move = use_cases.trajectories(setup, PlaneRequest(which, n=300, evaluations=30))
        frames = frames_of(move)
        assert move["sigma"][0] > 50 and move["sigma"][-1] == 0 and len(move["particles"]) == 300 and move["finite"]
        plane = use_cases.Plane(setup.data)
        end = torch.from_numpy(frames[-1].astype(np.float64)) / 1000 * plane.half + plane.center
        assert float(setup.data.truth.log_prob(end).median()) > -3, which
        again = use_cases.trajectories(setup, PlaneRequest(which, n=300, evaluations=30))
        assert again["frames"] == move["frames"]
    long = use_cases.trajectories(setup, PlaneRequest(n=10, evaluations=1000))
    assert len(long["sigma"]) <= use_cases.FRAMES + 1


def test_samples_of_a_requested_class_are_of_that_class():
    setup = Lab().setup("moons")
    move = use_cases.trajectories(setup, PlaneRequest(n=200, evaluations=30, label=1, scale=2.0))
    assert np.mean(np.array(move["particles"]) == 1) > 0.95
    with pytest.raises(ToyDataError, match="has no classes"):
        use_cases.trajectories(Setup(make_data("checkerboard", n=100)), PlaneRequest("exact", label=0))


def test_arrows_end_at_the_posterior_mean_and_the_difference_of_equal_denoisers_is_zero():
    setup = Lab().setup("eight-gaussians")
    arrows = use_cases.field(setup, "exact", 10.0)
    plane = use_cases.Plane(setup.data)
    ends = plane.flat(plane.grid(use_cases.ARROWS)) + torch.tensor(arrows["arrows"]).reshape(-1, 2) / 1000
    assert float(ends.norm(dim=1).max()) < 1  # at high noise every arrow ends inside the ring
    same = Setup(setup.data, setup.data.exact())
    object.__setattr__(same.denoiser, "schedule", setup.denoiser.schedule)
    assert use_cases.field(same, "difference", 0.5)["top"] < 1e-9
    assert use_cases.field(setup, "difference", 0.5)["top"] > 1e-4
    with pytest.raises(ToyDataError, match="sigma is"):
        use_cases.field(setup, "exact", 1e9)


def test_the_density_of_the_learned_sampler_is_close_to_the_true_density():
    setup = Lab().setup("eight-gaussians")
    learned, exact = (np.array(use_cases.density(setup, which)["log_p"]) for which in ("learned", "exact"))
    near = exact > -2
    assert near.sum() > 10 and np.abs(learned[near] - exact[near]).mean() < 0.5


def test_a_network_trained_on_points_of_five_numbers_samples_but_has_no_field_or_density():
    x = np.random.default_rng(0).normal(size=(300, 5))
    setup = Setup(from_points(x, "cloud"))
    events = list(Lab().train(setup, ToyTrainConfig(width=16, steps=40, batch=32)))
    assert len(events) == 40 and events[-1][1].denoiser is not None
    move = use_cases.trajectories(events[-1][1], PlaneRequest(n=50, evaluations=5))
    assert frames_of(move).shape == (6, 50, 2)
    for refuse in (lambda s: use_cases.field(s, "learned", 0.5), lambda s: use_cases.density(s, "learned")):
        with pytest.raises(ToyDataError, match="points of 2 numbers"):
            refuse(events[-1][1])
    with pytest.raises(ToyDataError, match="press Train"):
        use_cases.trajectories(setup, PlaneRequest())


def test_a_configuration_that_cannot_be_trained_is_refused_before_the_first_event():
    setup = Setup(make_data("moons", n=100))
    for config, sentence in ((ToyTrainConfig(T=1), "T is 1"), (ToyTrainConfig(params={"beta_start": 0.1}), "no parameter 'beta_start'")):
        with pytest.raises(ValueError, match=sentence):
            Lab().train(setup, config)  # nothing is iterated


def test_the_error_for_an_unknown_class_is_one_sentence():
    setup = Lab().setup("moons")
    for bad in (2, 49):
        with pytest.raises(ToyDataError, match="there is no class number"):
            use_cases.trajectories(setup, PlaneRequest("exact", n=10, label=bad))
        with pytest.raises(ToyDataError, match="there is no class number"):
            use_cases.density(setup, "exact", bad)


def test_the_exact_denoiser_of_a_large_file_uses_a_random_subset_of_its_points():
    """The exact denoiser of all points would need gigabytes. The subset is random because files are often sorted by class."""
    x = np.random.default_rng(0).normal(size=(30_000, 2))
    setup = Setup(from_points(x, "large", ["a"] * 15_000 + ["b"] * 15_000))
    for which in ("exact", "points"):
        mixture = setup.choose(which).mixture
        assert len(mixture.means) == use_cases.EXACT_POINTS and 350 < int(mixture.labels.sum()) < 650
    move = use_cases.trajectories(setup, PlaneRequest("exact", n=50, evaluations=3, label=1))
    assert move["finite"] and 400 < sum(use_cases.points_value(setup, 1500)["colour"]) < 1100


def test_the_error_for_a_class_without_points_is_one_sentence():
    few = from_points(np.random.default_rng(0).normal(size=(40, 2)), "few", ["a"] * 20 + ["b"] * 20)
    setup = Setup(dataclasses.replace(few, label=torch.full((40,), 1)))
    with pytest.raises(ToyDataError, match="class number 0 has no points"):
        use_cases.trajectories(setup, PlaneRequest("exact", n=10, evaluations=3, label=0))


def test_samples_of_each_method_are_projected_onto_the_plane():
    data = make_data("moons", n=500)
    pictures = [{"method": w, "scale": s, "points": data.x[:7]} for w, s in (("data", 1.0), ("conditional", 1.0), ("classifier", 3.0))]
    value = use_cases.clouds_value(data, pictures)
    assert [(w["method"], w["scale"]) for w in value["clouds"]] == [("conditional", 1.0), ("classifier", 3.0)]
    plane = use_cases.Plane(data)
    back = torch.tensor(value["data"]).reshape(-1, 2) / 1000 * plane.half + plane.center
    assert torch.allclose(back.float(), data.x[:7], atol=2e-3 * plane.half)
    deep = from_points(np.random.default_rng(0).normal(size=(50, 9)), "deep")
    assert len(use_cases.clouds_value(deep, [{"method": "data", "scale": 1.0, "points": deep.x[:5]}])["data"]) == 10


def test_the_field_of_the_data_points_is_close_to_the_exact_field_and_unknown_fields_are_refused():
    setup = Lab().setup("moons")
    of_points, of_truth = (use_cases.field(setup, which, 0.3)["arrows"] for which in ("points", "exact"))
    assert of_points != of_truth and np.abs(np.array(of_points) - np.array(of_truth)).mean() < 30
    with pytest.raises(ValueError, match="unknown field 'both'"):
        use_cases.field(setup, "both", 0.3)


def test_a_limited_number_of_setups_is_kept_and_unknown_names_return_none():
    lab, setup = Lab(), Setup(make_data("moons", n=50))
    names = [lab.keep(setup) for _ in range(use_cases.KEPT + 3)]
    assert lab.get(names[0]) is None and lab.get(names[-1]) is setup
    assert lab.get(None) is None and lab.get({"a": 1}) is None and lab.get("../x") is None
