"""The toy lab's data, exact denoisers, network and training, each against an independent truth."""

import math

import numpy as np
import pytest
import torch

from ddpm_app.checkpoints.checkpoint import CheckpointError
from ddpm_app.diffusion.guidance import cfg, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.files import save_tensors
from ddpm_app.networks.mlp import ToyConfig, ToyMLP, ToyStack
from ddpm_app.toy import points as toy_files
from ddpm_app.toy import shapes
from ddpm_app.toy.checkpoint import load_toy, save_toy
from ddpm_app.toy.density import Mixture
from ddpm_app.toy.shapes import SHAPES, ToyDataError, make_data
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_one, train_toys


def three() -> Mixture:
    means = torch.tensor([[1.0, 0.5], [-0.7, 0.2], [0.1, -0.9]])
    return Mixture.of(means, torch.tensor([0.15, 0.3, 0.1]), torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.2, 0.3]))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("label", [None, 0, 1, 2])
def test_exact_denoiser_is_tweedies_formula(sigma, label):
    """D = x + sigma^2 grad ln p_sigma(x), the gradient by automatic differentiation of the log-density."""
    mixture = three()
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * (1 + sigma)
    labels = None if label is None else torch.full((50,), label)
    x.requires_grad_(True)
    (score,) = torch.autograd.grad(mixture.log_prob(x, sigma, labels).sum(), x)
    assert torch.allclose(mixture.denoise(x, sigma, labels), x + sigma**2 * score, rtol=1e-7, atol=1e-9)


def test_density_integrates_to_one_and_null_class_is_everything():
    mixture = three()
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    for label in (None, 0, 1):
        labels = None if label is None else torch.full((len(plane),), label)
        total = mixture.log_prob(plane, 0.05, labels).exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(float(total) - 1) < 1e-6
    null = torch.full((len(plane),), 2)
    assert torch.equal(mixture.denoise(plane, 0.5, null), mixture.denoise(plane, 0.5))


def test_point_set_denoiser_is_the_weighted_mean_of_the_points():
    points = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = Mixture.of(points, 0.0)
    x, sigma = points[:5] + 0.3, 0.4
    weight = torch.softmax(-(torch.cdist(x, points) ** 2) / (2 * sigma**2), 1)
    assert torch.allclose(exact.denoise(x, sigma), weight @ points, atol=1e-12)
    assert torch.allclose(exact.denoise(points + 1e-4, 1e-3), points, atol=1e-8)  # at low noise: the nearest point


@pytest.mark.parametrize("name", SHAPES)
def test_named_sets_have_the_truths_moments(name):
    data = make_data(name, n=20_000)
    z = data.to_model(data.x).double()
    assert data.x.shape == (20_000, 2) and bool(data.x.isfinite().all())
    assert float(z.mean(0).abs().max()) < 0.03 and abs(float(z.square().mean()) - 1) < 0.05
    assert torch.allclose(data.from_model(data.to_model(data.x)), data.x, atol=1e-5)
    if data.classes:
        assert sorted(set(data.label.tolist())) == list(range(len(data.classes)))


@pytest.mark.parametrize("noise, rate", [(0.1, 0.999), (0.2, 0.970), (0.25, 0.944)])
def test_bayes_rate_of_two_moons(noise, rate):
    data = make_data("moons", n=20_000, noise=noise)
    right = data.truth.class_posterior(data.x).argmax(1) == data.label
    assert abs(float(right.double().mean()) - rate) < 0.005


def test_two_moons_lie_where_scikit_learn_puts_them():
    x = make_data("moons", n=20_000, noise=0.01)
    upper, lower = x.x[x.label == 0], x.x[x.label == 1]
    assert float((upper.norm(dim=1) - 1).abs().max()) < 0.06 and float(upper[:, 1].min()) > -0.06
    assert float(((lower - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs().max()) < 0.06


def test_every_solver_reaches_the_mixture_with_the_exact_denoiser():
    data = make_data("eight-gaussians")
    sigmas = sigma_grid(make_schedule("linear"), 60)
    x, noise = start(range(400), (400, 2), sigmas)
    means = data.exact().mixture.means
    for name, sampler in SAMPLERS.items():
        out = last(sampler.steps(conditioned(data.exact(), None), x, sigmas, noise))
        nearest = torch.cdist(out.double(), means).min(1)
        assert float(nearest.values.mean()) < 0.25, name
        assert len(nearest.indices.unique()) == 8, name


def test_guidance_runs_on_the_exact_denoiser():
    data = make_data("moons")
    label = torch.ones(200, dtype=torch.int64)
    sigmas = sigma_grid(make_schedule("linear"), 30)
    x, noise = start(range(200), (200, 2), sigmas)
    for scale in (1.0, 3.0):
        out = data.from_model(last(SAMPLERS["ddim"].steps(cfg(data.exact(), label, scale), x, sigmas, noise)))
        assert float((data.truth.class_posterior(out).argmax(1) == 1).double().mean()) > 0.97


# -- network and training -------------------------------------------------------------------------------------------------


def test_network_has_the_unets_signature():
    net = ToyMLP(ToyConfig(dim=3, width=16, depth=3, num_classes=4))
    x, t, label = torch.randn(5, 3), torch.tensor([0.0, 1.5, 10, 500, 999]), torch.tensor([0, 1, 2, 3, 4])
    assert net(x, t, label).shape == (5, 3)
    assert torch.allclose(net(x, t, None), net(x, t, torch.full((5,), 4)))
    assert not torch.allclose(net(x, t, label), net(x, t, None))
    shared = torch.tensor(7.0).expand(5)  # one level for the whole batch: embedded once, same numbers
    assert torch.allclose(net(x, shared, label), net(x, shared.clone(), label), atol=1e-6)
    with pytest.raises(ValueError, match="dim 1..64"):
        ToyConfig(dim=65)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_stack_equals_its_networks(num_classes):
    nets = [ToyMLP(ToyConfig(dim=2, width=16, depth=3, num_classes=num_classes)) for _ in range(3)]
    stack = ToyStack(nets, torch.tensor([0, 10, 30]))
    x, t = torch.randn(3 * 5, 2), torch.randint(0, 10, (15,)).float()
    label = torch.randint(0, num_classes + 1, (15,)) if num_classes else None
    for lab in (label, None):
        out = stack(x, t + torch.tensor([0, 10, 30]).repeat_interleave(5), lab)
        for i, net in enumerate(stack.unstack()):
            part = slice(5 * i, 5 * i + 5)
            want = nets[i](x[part], t[part], None if lab is None else lab[part])
            assert torch.allclose(out[part], want, atol=1e-6) and torch.allclose(net(x[part], t[part]), nets[i](x[part], t[part]))


def test_training_in_a_stack_equals_training_alone():
    data = make_data("moons", n=500)
    shared = dict(width=16, steps=40, batch=32)
    configs = [
        ToyTrainConfig(T=10, seed=0, **shared),
        ToyTrainConfig(T=1000, seed=1, **shared),
        ToyTrainConfig(schedule="cosine", T=50, seed=0, **shared),
    ]
    together = ToyTrainer(configs, data)
    list(train_toys(together))
    x, label = torch.randn(20, 2), torch.randint(0, 3, (20,))
    for config, d in zip(configs, together.denoisers()):
        alone = train_one(config, data)
        assert torch.allclose(d(x, torch.tensor(0.2), label), alone(x, torch.tensor(0.2), label), atol=2e-4)
        assert alone.schedule.T == config.T


def test_training_is_reproducible_and_learns():
    data = make_data("moons", n=2000)
    config = ToyTrainConfig("linear", row="eps", width=64, steps=400, batch=128, T=100, params={"beta_end": 0.2}, seed=3)
    trainer = ToyTrainer([config], data)
    events = list(train_toys(trainer, every=100))
    assert [e.step for e in events] == [100, 200, 300, 400] and events[-1].loss[0] < 0.6 * events[0].loss[0]
    again = train_one(config, data)
    for a, b in zip(trainer.networks()[0].parameters(), again.network.parameters()):
        assert torch.equal(a, b)


def test_bad_settings_are_named():
    data = make_data("moons", n=100)
    with pytest.raises(ValueError, match="T is 1"):
        ToyTrainer([ToyTrainConfig(T=1)], data)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ToyTrainer([ToyTrainConfig("linear", params={"beta_end": 1.5})], data)
    with pytest.raises(ValueError, match="share width"):
        ToyTrainer([ToyTrainConfig(width=16), ToyTrainConfig(width=32)], data)
    with pytest.raises(ValueError, match="steps is 0; a whole number from 1 to 1000000 is accepted"):
        ToyTrainConfig(steps=0)


def test_checkpoint_round_trip(tmp_path):
    data = make_data("moons", n=500)
    config = ToyTrainConfig(width=16, steps=20, batch=32, T=50)
    d = train_one(config, data)
    save_toy(tmp_path / "m", d, data, config, {"name": "moons", "n": 500})
    model = load_toy(tmp_path / "m")
    x = torch.randn(8, 2)
    assert torch.equal(
        model.denoiser(x, torch.tensor(0.3), torch.ones(8, dtype=torch.int64)), d(x, torch.tensor(0.3), torch.ones(8).long())
    )
    assert model.classes == data.classes and model.scale == data.scale and torch.equal(model.center, data.center)
    endless = {k: v + float("nan") for k, v in d.network.state_dict().items()}
    save_tensors(tmp_path / "m" / "weights.safetensors", endless)
    with pytest.raises(CheckpointError, match="tensors hold infinities or NaN"):
        load_toy(tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cut short"):
        load_toy(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"kind": "toy"}')
    with pytest.raises(CheckpointError, match="does not describe"):
        load_toy(tmp_path / "m")
    with pytest.raises(CheckpointError, match="pickle"):
        load_toy(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="not a toy model"):
        load_toy(tmp_path)


# -- what people bring ----------------------------------------------------------------------------------------------------


def write(path, text):
    path.write_text(text)
    return path


def test_csv_with_header_and_classes(tmp_path):
    data = toy_files.load(str(write(tmp_path / "a.csv", "x,y,label\n0,1,cat\n2,3,dog\n4,5.5,cat\n")))
    assert data.x.tolist() == [[0, 1], [2, 3], [4, 5.5]] and data.classes == ("cat", "dog") and data.label.tolist() == [0, 1, 0]
    assert len(toy_files.load_points(write(tmp_path / "b.csv", "1,2\n3,4\n"))) == 2


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("x,y\n1,2\n3,hello\n", "line 3, column 2 of a.csv is 'hello', not a number"),
        ("1,2\n3,nan\n", "1 values that are not finite numbers, first in row 2"),
        ("1,2\n3,inf\n", "not finite"),
        ("1,2\n", "1 point; at least 2"),
        ("", "is empty"),
        ("1,2\n3\n", "line 2 of a.csv has 1 columns, the first has 2"),
        ("1,2\n1,2\n1,2\n", "do not spread"),
        (",".join(["1"] * 65) + "\n" + ",".join(["2"] * 65), "65 columns; accepted are 1 to 64"),
        ("x,y\n", "'x', not a number"),
    ],
)
def test_bad_csv_gets_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ToyDataError) as refusal:
        toy_files.load_points(write(tmp_path / "a.csv", text))
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_npy_of_every_kind(tmp_path):
    file = tmp_path / "a.npy"

    def load(array, **how):
        np.save(file, array, **how)
        return toy_files.load_points(file)

    assert load(np.random.default_rng(0).normal(size=(20, 64))).dim == 64
    assert load(np.arange(10)).dim == 1 and "one column" in load(np.arange(10)).notes[0]
    big = load(np.random.default_rng(0).normal(size=(1_000_000, 2)).astype(np.float32))
    assert len(big) == shapes.MAX_POINTS and "1000000 points: a random 100000" in big.notes[0]
    for array, sentence in [
        (np.zeros((1, 2)), "1 point"),
        (np.zeros((3, 2, 2)), "shape (3, 2, 2)"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((5, 65)), "65 columns"),
        (np.array([["a", "b"]] * 3), "accepted are real numbers"),
        (np.zeros((5, 2), complex), "accepted are real numbers"),
        (np.float64(3), "shape ()"),
        (np.zeros((0, 2)), "0 points"),
    ]:
        with pytest.raises(ToyDataError) as refusal:
            load(array)
        assert sentence in str(refusal.value)
    with pytest.raises(ToyDataError, match="Python objects, which are not opened"):
        load(np.array([[object(), 1]] * 3, dtype=object), allow_pickle=True)
    np.save(file, np.zeros((500, 2)))
    unclosed = file.read_bytes().replace(b"(500, 2), }", b"(5000, 2), ")
    for content in (b"", b"\x93NUMPY\x01\x00", b"hello", unclosed):
        file.write_bytes(content)
        with pytest.raises(ToyDataError, match="not a .npy file"):
            toy_files.load_points(file)
    for array, sentence in ((np.eye(9) + 1e9, "subtract their mean first"), (1e300 * np.eye(9), "a number of size 1e\\+300")):
        with pytest.raises(ToyDataError, match=sentence):
            load(array)
    with pytest.raises(ToyDataError, match="neither"):
        toy_files.load_points(write(tmp_path / "a.pkl", "x"))
    with pytest.raises(ToyDataError, match="unknown data 'moon'; known: moons"):
        toy_files.load("moon")


def test_a_long_csv_is_subsampled_evenly_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_files, "MAX_POINTS", 1000)
    lines = "".join(f"{k},{k % 7},{'first' if k < 20_000 else 'second'}\n" for k in range(40_000))
    data = toy_files.load_points(write(tmp_path / "a.csv", "x,y,class\n" + lines))
    assert len(data) == 1000 and data.notes == ("40000 points: a random 1000 of them are used",)
    assert len(data.x[:, 0].unique()) == 1000 and abs(float(data.x[:, 0].mean()) - 20_000) < 5 * 40_000 / math.sqrt(12_000)
    assert torch.equal(data.label, (data.x[:, 0] >= 20_000).long())


def test_some_of_the_points_come_from_everywhere():
    data = toy_files.from_points(np.arange(2000.0), "sorted", ["a"] * 1000 + ["b"] * 1000)
    few = data.some(100)
    assert len(few) == 100 and 30 < int(few.label.sum()) < 70 and torch.equal(few.label, (few.x[:, 0] >= 1000).long())
    assert data.some(5000) is data


def test_a_mixture_follows_its_sliders():
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


def test_a_drawing_becomes_a_density():
    data = shapes.drawn([[(-0.5, 0), (0.5, 0)], [(0, 0.8)]], width=0.02)
    assert float(data.x[:, 0].min()) < -0.45 and abs(float(data.truth.log_prob(torch.tensor([[0.0, 0.0]])).exp())) > 5
    for nothing, sentence in (([], "nothing is drawn yet"), (None, "nothing is drawn yet"), ([[]], "pairs of finite numbers")):
        with pytest.raises(ToyDataError, match=sentence):
            shapes.drawn(nothing)
    with pytest.raises(ToyDataError, match="list of"):
        shapes.drawn([[(0, math.nan)]])


def test_a_class_without_points_is_named():
    data = make_data("moons", n=100)
    assert len(data.of_class(0)) + len(data.of_class(1)) == 100
    with pytest.raises(ToyDataError, match="class 7 of moons has no points"):
        data.of_class(7)


def test_principal_axes_find_the_plane_of_the_points():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=g) @ torch.randn(2, 10, generator=g) + 3
    axes = shapes.principal_axes(x)
    seen = (x - x.mean(0)) @ axes
    assert torch.allclose(axes.T @ axes, torch.eye(2), atol=1e-5)
    assert torch.allclose(seen.square().sum(), (x - x.mean(0)).square().sum(), rtol=1e-4)
    assert shapes.principal_axes(torch.randn(9, 1)).shape == (1, 2)
