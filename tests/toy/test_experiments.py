"""The experiments and their commands: orders of the solvers, agreement with Bayes, reproducibility, errors for bad input."""

import csv
import math
import xml.etree.ElementTree

import pytest
import torch

from ddpm_app.cli.main import main
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import classifier_guided, conditioned, of_class
from ddpm_app.diffusion.samplers import SAMPLERS, last
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.networks.mlp import ToyConfig, ToyMLP
from ddpm_app.toy import experiments
from ddpm_app.toy.classifier import decision_grid, denoising_classifier, train_classifier
from ddpm_app.toy.density import ExactDenoiser, Mixture
from ddpm_app.toy.shapes import ToyDataError, make_data
from ddpm_app.toy.sweeps import Scale, draw, over_seeds
from ddpm_app.toy.training import ToyTrainConfig, train_one

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
    """Between sigma 2 and 0.5 on a smooth grid, because the last step of a grid, to 0, does not become shorter with more steps.
    iPNDM starts with one Euler step, so its order over a whole run is 2; its later steps have order 4."""
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


@pytest.mark.parametrize("name", ["ddpm", "ddpm-large"])
def test_measured_weak_order_of_the_stochastic_solvers_on_the_exact_denoiser(name):
    """For one Gaussian N(0, v I) the denoiser and every step are linear. The variance of the samples is therefore computed without
    sampling, from the response to the start alone and to each step's noise alone. Its error falls as 1 / n."""
    v, high, low = 0.6, 2.0, 0.1
    denoise = conditioned(ExactDenoiser(Mixture.of(torch.zeros(1, 1), math.sqrt(v))), None)

    def variance(n):
        levels = high * (low / high) ** torch.linspace(0, 1, n + 1, dtype=torch.float64)
        x, step = torch.zeros(n + 1, 1, dtype=torch.float64), iter(range(1, n + 1))
        x[0] = 1.0  # row 0: the start; row k: the noise of step k

        def impulse(like):
            out = torch.zeros_like(like)
            if (k := next(step, None)) is not None:
                out[k] = 1.0
            return out

        response = last(SAMPLERS[name].run(denoise, x, levels, impulse))[:, 0]
        return float(response[0] ** 2 * (v + high**2) + response[1:].square().sum())

    counts = [64, 128, 256, 512]
    errors = [abs(variance(n) - (v + low**2)) for n in counts]
    assert abs(experiments.fitted_order(counts, errors, 1e-12) - SAMPLERS[name].order) < 0.2, errors


def test_fitted_order_of_a_known_power():
    counts = [2, 4, 8, 16, 32]
    assert abs(experiments.fitted_order(counts, [5 * n**-2.5 for n in counts]) - 2.5) < 1e-9
    assert experiments.fitted_order([1, 2], [1, 0.5]) is None
    assert experiments.fitted_order(counts, [math.nan] * 5) is None


def test_solvers_have_smaller_errors_with_more_evaluations():
    data = make_data("moons", n=500)
    rows = rows_of(
        experiments.solvers(data.exact(), make_schedule("linear"), data, (4, 16, 64), ("ddim", "heun", "ddpm"), points=37, emd_points=100)
    )
    assert [r["sampler"] for r in rows] == ["ddim"] * 3 + ["heun"] * 3 + ["ddpm"] * 3
    ddim = [r["error"] for r in rows[:3]]
    assert ddim[0] > ddim[1] > ddim[2] > 0 and rows[6]["error"] is None and rows[6]["fitted order"] is None
    assert [r["evaluations"] for r in rows[3:6]] == [3, 15, 63]
    assert rows[5]["error"] < 0.02 and rows[5]["error"] < rows[2]["error"] and all(r["emd"] > 0 for r in rows)
    with pytest.raises(ValueError, match="unknown sampler"):
        rows_of(experiments.solvers(data.exact(), make_schedule("linear"), data, names=("euler",)))


def test_sweep_rows_contain_their_settings_and_are_reproducible():
    data = make_data("moons", n=500)
    runs = [rows_of(experiments.steps(data, (5, 20), (0, 1), TINY, **SMALL)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert [(r["T"], r["seed"]) for r in runs[0]] == [(5, 0), (5, 1), (20, 0), (20, 1)]
    for r in runs[0]:
        assert all(math.isfinite(r[k]) for k in ("nll ode", "nll bound", "emd", "emd data to data", "sliced w2", "mmd2"))
    lines = over_seeds(runs[0], ("T",), ("emd",))
    assert lines[0]["emd"] == pytest.approx((runs[0][0]["emd"] + runs[0][1]["emd"]) / 2) and lines[0]["runs"] == 2
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


def test_the_training_free_classifier_with_the_exact_denoiser_is_nearly_as_accurate_as_bayes():
    for noise, within in ((0.1, 0.01), (0.25, 0.03)):
        data = make_data("moons", n=1000, noise=noise)
        bayes = (data.truth.class_posterior(data.x).argmax(1) == data.label).double().mean()
        predicted, cost = denoising_classifier(data.exact(), data.to_model(data.x), make_schedule("linear"), 32)
        assert cost == 64 and float((predicted == data.label).double().mean()) > float(bayes) - within
    with pytest.raises(ToyDataError, match="t is 5000"):
        denoising_classifier(data.exact(), data.x, make_schedule("linear"), t=5000)
    with pytest.raises(ToyDataError, match="two classes"):
        denoising_classifier(make_data("checkerboard", n=100).exact(), data.x, make_schedule("linear"))


def test_a_trained_classifier_is_within_one_percentage_point_of_bayes():
    data = make_data("moons", n=4000, noise=0.2)
    trained = train_classifier(data, make_schedule("linear"), noisy=False, steps=400)
    x, label = data.truth.sample(4000, torch.Generator().manual_seed(9))
    bayes = (data.truth.class_posterior(x).argmax(1) == label).double().mean()
    right = (trained(data.to_model(x.float()), 0.0).argmax(1) == label).double().mean()
    assert float(right) > float(bayes) - 0.01
    side = decision_grid(lambda p: trained(data.to_model(p), 0.0).argmax(1), torch.tensor([-1.5, -1.0]), torch.tensor([2.5, 1.5]), 20)
    assert side.shape == (20, 20) and side[-1, 5] == 0 and side[0, 14] == 1  # upper moon above, lower below


def test_experiments_with_classes_have_a_row_and_a_picture_for_every_method():
    data = make_data("moons", n=600)
    denoiser = train_one(ToyTrainConfig(**SMALL), data)
    events = list(experiments.classes(data, denoiser, (1, 3), points=50, evaluations=5))
    rows = rows_of(events)
    methods = [("conditional", 1), ("classifier", 1), ("classifier", 3), ("classifier-free", 1), ("classifier-free", 3)]
    assert [(r["method"], r["scale"]) for r in rows] == methods
    assert rows[0]["emd"] == rows[3]["emd"]  # s = 1 is off
    pictures = [e.picture for e in events if e.picture]
    assert [(p["method"], p["scale"]) for p in pictures] == [("data", 1), *methods]
    assert [p["points"].shape for p in pictures[1:]] == [(50, 2)] * 5 and pictures[0]["points"].shape[1] == 2
    events = list(experiments.classifier(data, denoiser, draws=4, test_points=200))
    rows = rows_of(events)
    assert [r["classifier"] for r in rows] == ["bayes", "trained", "training-free"] and rows[2]["evaluations a point"] == 8
    pictures = {p["name"]: p for e in events if (p := e.picture)}
    assert list(pictures) == ["bayes", "trained", "training-free"]
    grid, side = pictures["bayes"]["grid"], experiments.SIDE
    assert len(grid) == len(grid[0]) == side and grid[-1][side // 3] == 0 and grid[0][2 * side // 3] == 1  # the upper moon above
    assert pictures["trained"]["points"] == pictures["bayes"]["points"] and len(pictures["bayes"]["label"]) == 200


def test_experiments_with_classes_refuse_data_and_models_without_them():
    data = make_data("moons", n=100)
    plain = Denoiser(ToyMLP(ToyConfig(width=16)), make_schedule("linear"), "v")  # unconditional
    with pytest.raises(ToyDataError, match="t is 1000; accepted is 0 to 999"):
        next(experiments.classifier(make_data("moons", n=100), t=1000))  # before anything is trained
    for make in (experiments.classes, experiments.classifier):
        with pytest.raises(ToyDataError, match="has no classes"):
            rows_of(make(make_data("checkerboard", n=100)))
        with pytest.raises(ToyDataError, match="2 classes; the one given has 0"):
            rows_of(make(data, plain))
    with pytest.raises(ToyDataError, match="no class number 5"):
        rows_of(experiments.classes(data, plain, label=5))


def test_the_likelihood_experiment_orders_bound_ode_and_true_nll():
    data = make_data("moons", n=600)
    denoiser = train_one(ToyTrainConfig(**SMALL, label_dropout=1.0), data)
    rows = {(r["quantity"], r["of"]): r for r in rows_of(experiments.likelihood(data, denoiser, scale=Scale(100, 100, 200, 32)))}
    truth = rows["true nll", "the density"]
    assert rows["bound", "exact denoiser"]["nats"] > truth["nats"] - 3 * truth["error"]
    assert abs(rows["ode nll", "exact denoiser"]["nats"] - truth["nats"]) < 4 * truth["error"]
    assert rows["bound", "learned denoiser"]["nats"] > rows["bound", "exact denoiser"]["nats"]


def test_the_same_seed_draws_the_same_points():
    data = make_data("moons", n=100)
    sigmas = sigma_grid(make_schedule("linear"), 10)
    a, b = (draw(conditioned(data.exact(), None), sigmas, 20, 2, 3) for _ in range(2))
    assert torch.equal(a, b)


# -- the command line -----------------------------------------------------------------------------------------------------


def command(*argv, code=0):
    assert main(["toy", *map(str, argv)]) == code


def test_experiments_write_csv(tmp_path, capsys):
    network = ("--width", 16, "--steps", 20, "--batch", 32, "--n", 300)
    sizes = ("--points", 50, "--nll-points", 20, "--bound-points", 20)
    calls = {
        "steps": (*network, *sizes, "--T", "5,10", "--seeds", 2),
        "schedules": (*network, *sizes, "--T", 10, "--pairs", "1e-4:0.02,1e-3:0.1", "--seeds", 1),
        "solvers": ("--n", 300, "--exact", "--samplers", "ddim", "--evaluations", "2,4,8", "--points", 50),
        "classes": (*network, "--scales", "1,2", "--points", 50, "--evaluations", 4),
        "classifier": (*network, "--draws", 2, "--plot", tmp_path / "plot.svg"),
        "likelihood": (*network, *sizes),
    }
    assert calls.keys() == experiments.EXPERIMENTS.keys()
    for name, extra in calls.items():
        command(name, *extra, "--csv", tmp_path / "rows.csv")
        rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
        assert rows and rows[0]["data"] == "moons" and "data" in capsys.readouterr().out or name in ("steps", "schedules")
        if name == "classifier":
            drawn = xml.etree.ElementTree.parse(tmp_path / "plot.svg").getroot()
            assert len([e for e in drawn.iter() if "decision boundary" in e.get("aria-label", "")]) == 3
        if name == "steps":
            first = (tmp_path / "rows.csv").read_bytes()
            command(name, *extra, "--csv", tmp_path / "rows.csv")
            assert (tmp_path / "rows.csv").read_bytes() == first and len(rows) == 4


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (("steps", "--T", "1"), "--T is 1; a whole number from 2 to 100000 is accepted"),
        (("steps", "--T", ","), "--T is empty"),
        (("steps", "--seeds", "0"), "--seeds is 0; a whole number from 1 to 1000 is accepted"),
        (("solvers", "--points", "-1"), "--points is -1; a whole number from 10 to 20000 is accepted"),
        (("solvers", "--evaluations", "2,0"), "--evaluations is 0"),
        (("solvers", "--samplers", ","), "--samplers is empty"),
        (("classes", "--points", "0"), "--points is 0"),
        (("classes", "--evaluations", "-4"), "--evaluations is -4"),
        (("classes", "--label", "-1"), "--label is -1"),
        (("classifier", "--draws", "0"), "--draws is 0"),
        (("likelihood", "--nll-points", "-5"), "--nll-points is -5"),
        (("likelihood", "--n", "-5"), "--n is -5; a whole number from 2 to 1000000 is accepted"),
        (("likelihood", "--seed", "-1"), "--seed is -1"),
        (("likelihood", "--threads", "-1"), "--threads is -1"),
        (("train", "--steps", "0", "--out", "x"), "--steps is 0"),
        (("train", "--width", "-16", "--out", "x"), "--width is -16"),
        (("sample", "--checkpoint", "m", "--n", "0", "--out", "x.npy"), "--n is 0; a whole number from 1 to 1000000 is accepted"),
        (("sample", "--checkpoint", "m", "--steps", "-3", "--out", "x.npy"), "--steps is -3"),
        (("schedules", "--pairs", "0:0.5"), "betas lie strictly between 0 and 1"),
        (("classes", "--data", "checkerboard"), "checkerboard has no classes"),
        (("likelihood", "--data", "nothing"), "unknown data 'nothing'"),
        (("classifier", "--noise", "nan"), "accepted is 0.001 to 5"),
        (("likelihood", "--data", "mixture", "--components", "99"), "a mixture takes 1 to 50 components (not 99)"),
        (("likelihood", "--spread", "2"), "moons does not take these options: spread"),
        (("likelihood", "--plot", "x.png"), "x.png must end in .svg"),
        (("solvers", "--samplers", "euler", "--exact"), "unknown sampler 'euler'"),
        (("solvers", "--checkpoint", "/nowhere"), "is accepted as a toy model"),
        (("sample", "--checkpoint", "/nowhere.pt", "--out", "x.npy"), "is a pickle"),
    ],
)
def test_bad_arguments_raise_one_sentence(argv, sentence, capsys):
    command(*argv, code=2)
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


@pytest.mark.parametrize("argv", [("solvers", "--evaluations", "2,many"), ("schedules", "--pairs", "0.1"), ("steps", "--seeds", "x")])
def test_the_error_for_text_that_is_not_a_number_names_the_flag(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["toy", *argv])
    assert f"argument {argv[1]}: " in (error := capsys.readouterr().err) and "lambda" not in error
