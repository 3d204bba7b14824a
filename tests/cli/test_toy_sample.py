"""python -m ddpm_app toy sample: bit-identical files, algorithm 2 of Ho et al. 2020, errors for bad priors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from ddpm_app.cli.main import main
from ddpm_app.toy.checkpoint import load_toy

ROOT = Path(__file__).resolve().parents[2]


def command(*argv, code=0):
    assert main(["toy", *map(str, argv)]) == code


def test_every_run_writes_the_same_file_bit_for_bit(tmp_path):
    """Priors of 64 numbers, T = 200, linear betas 1e-4..0.02, without noise in the steps; on 1 and 2 threads and in another process."""
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
    flags = [str(a) for a in (*what, "--out", tmp_path / "again.npy")]
    subprocess.run([sys.executable, "-m", "ddpm_app", "toy", *flags], cwd=ROOT, check=True, capture_output=True)  # in another process
    files.append((tmp_path / "again.npy").read_bytes())
    out = np.load(tmp_path / "0.npy")
    assert files[0] == files[1] == files[2] and out.shape == (1500, 64) and out.dtype == np.float32 and np.isfinite(out).all()
    np.save(tmp_path / "some.npy", np.load(tmp_path / "prior.npy")[1000:1200])  # a sample does not depend on the others
    command(*what[:4], tmp_path / "some.npy", *what[5:], "--out", tmp_path / "some-out.npy")
    assert np.array_equal(np.load(tmp_path / "some-out.npy"), out[1000:1200])
    command(*what, "--out", tmp_path / "a.csv")
    assert np.allclose(np.loadtxt(tmp_path / "a.csv", delimiter=","), out, atol=1e-6)


def test_no_noise_equals_the_means_of_ho_et_al_algorithm_2(tmp_path):
    """Algorithm 2 of Ho et al. 2020 with z = 0, written in the symbols of the paper, gives the samples of the command."""
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


def test_the_error_for_a_bad_prior_is_one_sentence(tmp_path, capsys):
    command("train", "--n", 100, "--width", 16, "--steps", 5, "--out", tmp_path / "m")
    for array, sentence in [
        (np.zeros((3, 3)), "has 3 columns; this model's points have 2"),
        (np.zeros(3), "shape (N, d)"),
        (np.full((3, 2), np.inf), "not finite"),
        (np.array([[None, 1]], dtype=object), "holds Python objects, which are not opened"),
    ]:
        np.save(tmp_path / "p.npy", array, allow_pickle=True)
        command("sample", "--checkpoint", tmp_path / "m", "--prior", tmp_path / "p.npy", "--out", tmp_path / "x.npy", code=2)
        assert sentence in capsys.readouterr().err
    np.save(tmp_path / "p.npy", np.zeros((500, 2)))
    (tmp_path / "p.npy").write_bytes((tmp_path / "p.npy").read_bytes().replace(b"(500, 2), }", b"(5000, 2), "))
    command("sample", "--checkpoint", tmp_path / "m", "--prior", tmp_path / "p.npy", "--out", tmp_path / "x.npy", code=2)
    assert "is cut short or not a .npy file" in capsys.readouterr().err
    command("sample", "--checkpoint", tmp_path / "m", "--label", 7, "--out", tmp_path / "x.npy", code=2)
    assert "--label is 7; m has 2 classes" in capsys.readouterr().err
