"""The experiments and the command line: orders, agreement with Bayes, determinism to the bit, one sentence for bad input."""

import csv
import math
import time

import numpy as np
import pytest
import torch

from ddpm_app import toy_cli
from ddpm_app import toy_experiments as experiments
from ddpm_app.guidance import classifier_guided, conditioned, of_class
from ddpm_app.samplers import SAMPLERS, last
from ddpm_app.schedules import make_schedule, sigma_grid
from ddpm_app.toy_classifier import decision_grid, denoising_classifier, train_classifier
from ddpm_app.toy_data import ToyDataError, make_data
from ddpm_app.toy_sweeps import SWEEP, Scale, draw, summary
from ddpm_app.toy_training import ToyTrainConfig, ToyTrainer, load_toy, train_one

SMALL = dict(width=16, steps=30, batch=32)
TINY = Scale(points=60, nll_points=20, bound_points=40, ode_steps=4)


def rows_of(events):
    events = list(events)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and abs(fractions[-1] - 1) < 1e-9
    return [row for e in events for row in e.rows]


@pytest.mark.parametrize(
    "name, order, grid", [("ddim", 1, "log"), ("dpmpp-2m", 2, "log"), ("unipc", 3, "log"), ("heun", 2, "log"), ("ipndm", 2, "even")]
)
def test_measured_order_of_every_solver_on_the_exact_denoiser(name, order, grid):
    """Between sigma 2 and 0.5 on a smooth grid: the jump to 0 at a grid's end is one step whatever the number of steps.
    iPNDM's fourth order is that of its later steps; the single Euler step it starts with leaves 2 of a run as a whole."""
    data = make_data("eight-gaussians", noise=0.4)
    denoise = conditioned(data.exact(), None)
    x = 2 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(method, n):
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        levels = 2.0 - 1.5 * u if grid == "even" else 2.0 * 0.25**u
        return last(SAMPLERS[method].run(denoise, x, levels))

    counts = [32, 64, 128, 256]
    reference = run("heun", 4096)
    errors = [float((run(name, n) - reference).norm()) for n in counts]
    assert abs(experiments.fitted_order(counts, errors, 1e-10) - order) < 0.35
    assert SAMPLERS[name].order == order or name == "ipndm"


def test_fitted_order_of_a_known_power():
    counts = [2, 4, 8, 16, 32]
    assert abs(experiments.fitted_order(counts, [5 * n**-2.5 for n in counts]) - 2.5) < 1e-9
    assert experiments.fitted_order([1, 2], [1, 0.5]) is None
    assert experiments.fitted_order(counts, [math.nan] * 5) is None


def test_solver_microscope():
    data = make_data("moons", n=500)
    rows = rows_of(
        experiments.solvers(data.exact(), make_schedule("linear"), data, (4, 16, 64), ("ddim", "heun", "ddpm"), points=40, emd_points=100)
    )
    assert [r["sampler"] for r in rows] == ["ddim"] * 3 + ["heun"] * 3 + ["ddpm"] * 3
    ddim = [r["error"] for r in rows[:3]]
    assert ddim[0] > ddim[1] > ddim[2] > 0 and rows[6]["error"] is None and rows[6]["fitted order"] is None
    assert [r["evaluations"] for r in rows[3:6]] == [3, 15, 63]
    assert rows[5]["error"] < rows[2]["error"] and all(r["emd"] > 0 for r in rows)
    with pytest.raises(ValueError, match="unknown sampler"):
        rows_of(experiments.solvers(data.exact(), make_schedule("linear"), data, names=("euler",)))


def test_sweep_rows_carry_their_settings_and_repeat():
    data = make_data("moons", n=500)
    found = [rows_of(experiments.steps(data, (5, 20), (0, 1), TINY, **SMALL)) for _ in range(2)]
    assert found[0] == found[1]
    assert [(r["T"], r["seed"]) for r in found[0]] == [(5, 0), (5, 1), (20, 0), (20, 1)]
    for r in found[0]:
        assert all(math.isfinite(r[k]) for k in ("nll ode", "nll bound", "emd", "emd floor", "sliced w2", "mmd2"))
    lines = summary(found[0], ("T",), ("emd",))
    assert lines[0]["emd"] == pytest.approx((found[0][0]["emd"] + found[0][1]["emd"]) / 2) and lines[0]["runs"] == 2
    rows = rows_of(experiments.schedules(data, ((1e-4, 0.02),), ("cosine",), 20, (0,), TINY, **SMALL))
    assert [r["schedule"] for r in rows] == ["linear 0.0001..0.02", "cosine"]


def test_classifier_guidance_with_the_true_posterior_is_conditional_sampling():
    """Bayes: D + sigma^2 grad ln p(c | x, sigma) is the conditional denoiser, for the exact mixture to rounding."""
    exact = make_data("moons", n=100).exact()
    label = torch.ones(30, dtype=torch.int64)
    x = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_posterior(y, sigma):
        null = [torch.full((len(y),), c) for c in range(2)]
        return torch.stack([exact.mixture.log_prob(y, sigma, c) for c in null], 1).log_softmax(1)  # the classes weigh the same

    guided = classifier_guided(conditioned(exact, None), of_class(log_posterior, label), 1.0)
    for sigma in (0.2, 1.0, 5.0):
        assert torch.allclose(guided(x, torch.tensor(sigma)), exact(x, sigma, label), atol=1e-9)


def test_denoising_classifier_with_the_exact_denoiser_comes_near_bayes():
    for noise, within in ((0.1, 0.01), (0.25, 0.03)):
        data = make_data("moons", n=1000, noise=noise)
        bayes = (data.truth.class_posterior(data.x).argmax(1) == data.label).double().mean()
        found, cost = denoising_classifier(data.exact(), data.to_model(data.x), make_schedule("linear"), 32)
        assert cost == 64 and float((found == data.label).double().mean()) > float(bayes) - within
    with pytest.raises(ToyDataError, match="t is 5000"):
        denoising_classifier(data.exact(), data.x, make_schedule("linear"), t=5000)
    with pytest.raises(ToyDataError, match="two classes"):
        denoising_classifier(make_data("checkerboard", n=100).exact(), data.x, make_schedule("linear"))


def test_trained_classifier_comes_within_a_point_of_bayes():
    data = make_data("moons", n=4000, noise=0.2)
    trained = train_classifier(data, make_schedule("linear"), noisy=False, steps=400)
    x, label = data.truth.sample(4000, torch.Generator().manual_seed(9))
    bayes = (data.truth.class_posterior(x).argmax(1) == label).double().mean()
    right = (trained(data.to_model(x.float()), 0.0).argmax(1) == label).double().mean()
    assert float(right) > float(bayes) - 0.01
    side = decision_grid(lambda p: trained(data.to_model(p), 0.0).argmax(1), torch.tensor([-1.5, -1.0]), torch.tensor([2.5, 1.5]), 20)
    assert side.shape == (20, 20) and side[-1, 5] == 0 and side[0, 14] == 1  # upper moon above, lower below


def test_class_experiments():
    data = make_data("moons", n=600)
    denoiser = train_one(ToyTrainConfig(**SMALL), data)
    rows = rows_of(experiments.classes(data, denoiser, (1, 3), points=50, evaluations=5))
    assert [(r["way"], r["scale"]) for r in rows] == [
        ("conditional", 1),
        ("classifier", 1),
        ("classifier", 3),
        ("classifier-free", 1),
        ("classifier-free", 3),
    ]
    assert rows[0]["emd"] == rows[3]["emd"]  # s = 1 is off
    rows = rows_of(experiments.classifier(data, denoiser, draws=4, test_points=200))
    assert [r["classifier"] for r in rows] == ["bayes", "trained", "training-free"] and rows[2]["evaluations a point"] == 8
    for make in (experiments.classes, experiments.classifier):
        with pytest.raises(ToyDataError, match="has no classes"):
            rows_of(make(make_data("checkerboard", n=100)))
    with pytest.raises(ToyDataError, match="no class number 5"):
        rows_of(experiments.classes(data, denoiser, label=5))


def test_likelihood_side_by_side():
    data = make_data("moons", n=600)
    denoiser = train_one(ToyTrainConfig(**SMALL, label_dropout=1.0), data)
    rows = {(r["quantity"], r["of"]): r for r in rows_of(experiments.likelihood(data, denoiser, scale=Scale(100, 100, 200, 32)))}
    truth = rows["true nll", "the density"]
    assert rows["bound", "exact denoiser"]["nats"] > truth["nats"] - 3 * truth["error"]
    assert abs(rows["ode nll", "exact denoiser"]["nats"] - truth["nats"]) < 4 * truth["error"]
    assert rows["bound", "learned denoiser"]["nats"] > rows["bound", "exact denoiser"]["nats"]


def test_guidance_free_draws_are_the_same_with_the_same_seed():
    data = make_data("moons", n=100)
    sigmas = sigma_grid(make_schedule("linear"), 10)
    a, b = (draw(conditioned(data.exact(), None), sigmas, 20, 2, 3) for _ in range(2))
    assert torch.equal(a, b)


# -- the command line -----------------------------------------------------------------------------------------------------


def command(*argv, code=0):
    assert toy_cli.main([str(a) for a in argv]) == code


def test_sample_is_the_same_bit_for_bit(tmp_path):
    """The classic exercise: priors of 64 numbers, T = 200, linear 1e-4..0.02, no noise on the way."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "points.npy", rng.normal(size=(200, 64)).astype(np.float32))
    np.save(tmp_path / "prior.npy", rng.normal(size=(1500, 64)))
    network = ("--width", 16, "--steps", 10, "--batch", 32)
    command("train", "--data", tmp_path / "points.npy", "--schedule", "linear", "--T", 200, *network, "--out", tmp_path / "model")
    what = ("sample", "--checkpoint", tmp_path / "model", "--prior", tmp_path / "prior.npy", "--sampler", "ddpm", "--no-noise")
    for k, threads in enumerate((1, 2)):
        torch.set_num_threads(threads)
        command(*what, "--out", tmp_path / f"{k}.npy")
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    files = [(tmp_path / f"{k}.npy").read_bytes() for k in range(2)]
    out = np.load(tmp_path / "0.npy")
    assert files[0] == files[1] and out.shape == (1500, 64) and out.dtype == np.float32 and np.isfinite(out).all()
    np.save(tmp_path / "some.npy", np.load(tmp_path / "prior.npy")[1000:1200])  # a sample does not depend on its company
    command(*what[:4], tmp_path / "some.npy", *what[5:], "--out", tmp_path / "some-out.npy")
    assert np.array_equal(np.load(tmp_path / "some-out.npy"), out[1000:1200])
    command(*what, "--out", tmp_path / "a.csv")
    assert np.allclose(np.loadtxt(tmp_path / "a.csv", delimiter=","), out, atol=1e-6)


def test_no_noise_walks_the_means_of_the_papers_algorithm(tmp_path):
    """Ho et al. 2020, algorithm 2 in its own symbols with z = 0, against the command."""
    betas = ("--schedule", "linear", "--row", "eps", "--T", 20, "--beta-end", 0.3)
    command("train", "--n", 200, *betas, "--width", 16, "--steps", 30, "--unconditional", "--out", tmp_path / "m")
    prior = np.random.default_rng(1).normal(size=(7, 2))
    np.save(tmp_path / "prior.npy", prior)
    command("sample", "--checkpoint", tmp_path / "m", "--prior", tmp_path / "prior.npy", "--no-noise", "--out", tmp_path / "x.npy")
    model = load_toy(tmp_path / "m", torch.float64)
    beta = torch.linspace(1e-4, 0.3, 20, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    x = torch.from_numpy(prior)
    for t in range(19, -1, -1):
        eps = model.denoiser.network(x, torch.full((7,), float(t)), None)
        x = (x - beta[t] / (1 - bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
    assert np.allclose(np.load(tmp_path / "x.npy"), model.from_model(x).numpy(), atol=1e-5)


def test_experiments_write_csv(tmp_path, capsys):
    network = ("--width", 16, "--steps", 20, "--batch", 32, "--n", 300)
    sizes = ("--points", 50, "--nll-points", 20, "--bound-points", 20)
    calls = {
        "steps": (*network, *sizes, "--T", "5,10", "--seeds", 2),
        "schedules": (*network, *sizes, "--T", 10, "--pairs", "1e-4:0.02,1e-3:0.1", "--seeds", 1),
        "solvers": ("--n", 300, "--exact", "--samplers", "ddim", "--evaluations", "2,4,8", "--points", 50),
        "classes": (*network, "--scales", "1,2", "--points", 50, "--evaluations", 4),
        "classifier": (*network, "--draws", 2),
        "likelihood": (*network, *sizes),
    }
    assert calls.keys() == experiments.EXPERIMENTS.keys()
    for name, extra in calls.items():
        command(name, *extra, "--csv", tmp_path / "rows.csv")
        rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
        assert rows and rows[0]["data"] == "moons" and "data" in capsys.readouterr().out or name in ("steps", "schedules")
        if name == "steps":
            first = (tmp_path / "rows.csv").read_bytes()
            command(name, *extra, "--csv", tmp_path / "rows.csv")
            assert (tmp_path / "rows.csv").read_bytes() == first and len(rows) == 4


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (("steps", "--T", "1"), "--T is 1; accepted is 2 to 100000"),
        (("steps", "--T", ","), "--T is empty"),
        (("steps", "--seeds", "0"), "--seeds is 0; accepted is 1 to 1000"),
        (("solvers", "--points", "-1"), "--points is -1; accepted is 10 to 20000"),
        (("solvers", "--evaluations", "2,0"), "--evaluations is 0"),
        (("solvers", "--samplers", ","), "--samplers is empty"),
        (("classes", "--points", "0"), "--points is 0"),
        (("classes", "--evaluations", "-4"), "--evaluations is -4"),
        (("classes", "--label", "-1"), "--label is -1"),
        (("classifier", "--draws", "0"), "--draws is 0"),
        (("likelihood", "--nll-points", "-5"), "--nll-points is -5"),
        (("likelihood", "--n", "-5"), "--n is -5; accepted is 2 to 1000000"),
        (("likelihood", "--seed", "-1"), "--seed is -1"),
        (("likelihood", "--threads", "-1"), "--threads is -1"),
        (("train", "--steps", "0", "--out", "x"), "--steps is 0"),
        (("train", "--width", "-16", "--out", "x"), "--width is -16"),
        (("sample", "--checkpoint", "m", "--n", "0", "--out", "x.npy"), "--n is 0; accepted is 1 to 1000000"),
        (("sample", "--checkpoint", "m", "--steps", "-3", "--out", "x.npy"), "--steps is -3"),
        (("schedules", "--pairs", "0:0.5"), "betas lie strictly between 0 and 1"),
        (("classes", "--data", "checkerboard"), "checkerboard has no classes"),
        (("likelihood", "--data", "nothing"), "unknown data 'nothing'"),
        (("classifier", "--noise", "nan"), "accepted is 0.001 to 5"),
        (("solvers", "--samplers", "euler", "--exact"), "unknown sampler 'euler'"),
        (("solvers", "--checkpoint", "/nowhere"), "is not a checkpoint"),
        (("sample", "--checkpoint", "/nowhere.pt", "--out", "x.npy"), "is a pickle"),
    ],
)
def test_bad_arguments_get_one_sentence(argv, sentence, capsys):
    command(*argv, code=2)
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


@pytest.mark.parametrize("argv", [("solvers", "--evaluations", "2,many"), ("schedules", "--pairs", "0.1"), ("steps", "--seeds", "x")])
def test_what_is_no_number_is_refused_by_its_flag(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        toy_cli.main(argv)
    assert f"argument {argv[1]}: " in (error := capsys.readouterr().err) and "lambda" not in error


def test_bad_priors_get_one_sentence(tmp_path, capsys):
    command("train", "--n", 100, "--width", 16, "--steps", 5, "--out", tmp_path / "m")
    for array, sentence in [
        (np.zeros((3, 3)), "has 3 columns; this model's points have 2"),
        (np.zeros(3), "shape (N, d)"),
        (np.full((3, 2), np.inf), "not finite"),
        (np.array([[None, 1]], dtype=object), "not a .npy file of plain numbers"),
    ]:
        np.save(tmp_path / "p.npy", array, allow_pickle=True)
        command("sample", "--checkpoint", tmp_path / "m", "--prior", tmp_path / "p.npy", "--out", tmp_path / "x.npy", code=2)
        assert sentence in capsys.readouterr().err
    command("sample", "--checkpoint", tmp_path / "m", "--label", 7, "--out", tmp_path / "x.npy", code=2)
    assert "there is no number 7" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_in_one_computation_is_three_times_as_fast_as_the_loop():
    data = make_data("moons")
    shared = {**SWEEP, "steps": 100, "label_dropout": 1.0}
    configs = [ToyTrainConfig(T=T, seed=s, **shared) for T in (10, 50, 100, 150, 200, 500, 1000) for s in range(3)]
    together, alone = ToyTrainer(configs, data), [ToyTrainer([c], data) for c in configs]
    clock = {"together": 0.0, "loop": 0.0}
    for k in range(5):  # in turns, so that other work on the machine meets both
        for name, trainers in (("together", [together]), ("loop", alone)):
            started = time.perf_counter()
            for trainer in trainers:
                for _ in range(10):
                    trainer.train_step()
            clock[name] += (time.perf_counter() - started) * (k > 0)
    assert clock["loop"] > 3 * clock["together"], clock
