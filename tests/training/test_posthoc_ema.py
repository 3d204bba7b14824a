"""Averages after the fact: closed forms beside quadrature, reconstructions beside averages tracked directly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from ddpm_app.checkpoints import checkpoint, description, weights
from ddpm_app.cli.main import command_parser
from ddpm_app.images.datasets import ImageData
from ddpm_app.networks import unet_config
from ddpm_app.networks.ema import Ema, average_lengths, power_gamma
from ddpm_app.training import posthoc_ema, runs
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.trainer import Trainer

STEPS, SNAPSHOTS = 400, 20


def profile(t: float, length: float, tau: np.ndarray) -> np.ndarray:
    gamma = power_gamma(length)
    return np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0.0)


# -- the mathematics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a, b", [((1.0, 0.05), (1.0, 0.1)), ((0.4, 0.1), (1.0, 0.05)), ((3.0, 0.2), (2.0, 0.02))])
def test_inner_products_are_integrals(a, b):
    end = min(a[0], b[0])
    tau = (np.arange(400_000) + 0.5) / 400_000 * end
    want = (profile(*a, tau) * profile(*b, tau)).mean() * end
    assert float(posthoc_ema.inner(a[0], power_gamma(a[1]), b[0], power_gamma(b[1]))) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.2])
def test_the_combination_is_the_nearest_one(length):
    """Its residual is what quadrature says, and stands at a right angle to every stored profile's difference."""
    times, lengths = np.repeat(np.arange(1, 11) / 10, 2), np.tile([0.05, 0.1], 10)
    x, error = posthoc_ema.combination(times, lengths, 1.0, length)
    tau = (np.arange(200_000) + 0.5) / 200_000
    known = np.stack([profile(t, w, tau) for t, w in zip(times, lengths)])
    target = profile(1.0, length, tau)
    residual = x @ known - target
    assert x.sum() == pytest.approx(1, abs=1e-9)
    assert error == pytest.approx(math.sqrt((residual**2).mean() / (target**2).mean()), rel=1e-3)
    slope = known @ residual / len(tau) / (target**2).mean()
    assert abs(slope - slope.mean()).max() < 1e-4  # all equal: only the sum, which is held, could lower it


def test_a_stored_profile_is_reconstructed_from_itself_alone():
    times, lengths = np.repeat([100.0, 200.0, 300.0], 2), np.tile([0.05, 0.1], 3)
    x, error = posthoc_ema.combination(times, lengths, 300.0, 0.1)
    assert error < 1e-6 and x[5] == pytest.approx(1, abs=1e-6)


def test_more_snapshots_and_more_lengths_come_nearer():
    def error(n, lengths, target):
        return posthoc_ema.combination(np.repeat(np.arange(1, n + 1), len(lengths)), np.tile(lengths, n), n, target)[1]

    for target in (0.03, 0.07, 0.15, 0.25):
        assert error(20, [0.05, 0.1], target) < 0.7 * error(10, [0.05, 0.1], target)
        assert error(10, [0.05, 0.1, 0.2], target) < error(10, [0.05, 0.1], target)
    assert error(20, [0.05, 0.1], 0.08) < 0.003


def test_nearly_equal_snapshots_do_not_blow_up():
    """A run killed between a snapshot and its state leaves neighbours a step apart."""
    times, lengths = np.repeat([100.0, 200.0, 299.0, 299.001, 300.0], 2), np.tile([0.05, 0.1], 5)
    x, error = posthoc_ema.combination(times, lengths, 300.0, 0.07)
    assert np.abs(x).sum() < 30 and error < 0.1


@pytest.mark.parametrize("bad", [(10, 0.0), (10, 0.3), (0, 0.05)])
def test_impossible_profiles_are_refused(bad):
    with pytest.raises(ValueError, match="length|step"):
        posthoc_ema.combination([10.0], [0.05], *bad)


# -- a run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real training run with snapshots, and averages of other lengths tracked directly beside it: (folder, {length: weights})."""
    folder, direct = tmp_path_factory.mktemp("runs") / "toy", {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0))
        images = torch.randint(0, 256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        data = ImageData("toy", images, torch.arange(32) % 2, ("a", "b"))
        trainer = Trainer(TrainConfig(data="toy", preset="micro", images=8 * STEPS, batch=8, warmup=40, lr=2e-3, device="cpu"), data)
        extra = {a: Ema(trainer.parameters, a) for a in (0.03, 0.07, 0.15, 0.2)}
        names = [n for n, _ in trainer.network.named_parameters()]
        for _ in range(STEPS):
            trainer.train_step()
            for ema in extra.values():
                ema.update(trainer.parameters, ema.decay(trainer.step))
            if trainer.step % (STEPS // SNAPSHOTS) == 0:
                place = folder / "snapshots" / f"{trainer.images:010d}"
                averages = {a: trainer.weights(average=a) for a in trainer.averages}
                posthoc_ema.save_averages(place, trainer.step, trainer.weights(), trainer.weights(ema=False), averages)
                config = checkpoint.CheckpointConfig(
                    trainer.network.config,
                    {"name": "cosine", "T": 1000},
                    "v",
                    "toy",
                    ("a", "b"),
                    trainer.images,
                    ema=trainer.ema.describe(),
                )
                checkpoint.save(place, config, trainer.weights())
    direct = {a: dict(zip(names, ema.values)) for a, ema in extra.items()} | {a: trainer.weights(average=a) for a in (0.05, 0.1)}
    direct[posthoc_ema.RAW] = trainer.weights(ema=False)
    checkpoint.save(folder, config, trainer.weights())
    (folder / "log.jsonl").write_text(json.dumps({"step": STEPS, "images": 8 * STEPS, "progress": 1, "loss": 0.5}) + "\n")
    return folder, direct


@pytest.mark.parametrize("length, most", [(0.03, 0.05), (0.07, 0.005), (0.15, 0.005), (0.2, 0.01)])
def test_a_reconstruction_is_the_tracked_average(run, length, most):
    """As a share of how far the tracked average lies from the nearest stored one: what the snapshots are rounded to is in it."""
    folder, direct = run
    found, average = posthoc_ema.reconstruct(folder, length)
    nearest = direct[0.05 if length < 0.07 else 0.1]
    apart = posthoc_ema.deviation(found, direct[length], [direct[length][k] - v for k, v in nearest.items()])
    print(
        f"length {length}: profile {average.error:.2%}, weights {posthoc_ema.deviation(found, direct[length]):.2e}, of the difference {apart:.2%}"
    )
    assert average.used == 2 * SNAPSHOTS and apart < most
    assert posthoc_ema.deviation(found, direct[length]) < 2e-4


@pytest.mark.parametrize("length", [0.05, 0.1, posthoc_ema.RAW])
def test_what_is_stored_comes_back_as_it_is(run, length):
    folder, direct = run
    found, average = posthoc_ema.reconstruct(folder, length)
    assert average.used == 1 and average.error == 0 and average.step == STEPS
    assert posthoc_ema.deviation(found, direct[length]) < 5e-6 and average.describe() == (
        "none (raw weights)" if length == posthoc_ema.RAW else f"power, {length:g} of the run"
    )


def test_earlier_moments_use_only_what_was_there(run):
    folder, _ = run
    name = sorted(p.name for p in (folder / "snapshots").iterdir())[4]
    _, average = posthoc_ema.reconstruct(folder, 0.07, name)
    assert average.used == 10 and average.step == STEPS // SNAPSHOTS * 5 and average.images == int(name)


def test_write_is_a_checkpoint_that_says_what_it_is(run, tmp_path):
    folder, direct = run
    average = posthoc_ema.write(folder, 0.07, tmp_path / "seven")
    found = checkpoint.open_checkpoint(tmp_path / "seven")
    assert "0.07" in found.config.ema and "after the fact" in found.config.ema and found.config.images_seen == average.images
    found.denoiser()
    posthoc_ema.write(folder, posthoc_ema.RAW, tmp_path / "raw")
    assert "raw" in checkpoint.open_checkpoint(tmp_path / "raw").config.ema


def test_runs_ema_from_a_shell(run, tmp_path, monkeypatch, capsys):
    folder, direct = run
    monkeypatch.setenv("DDPM_RUNS", str(folder.parent))
    parser = command_parser("runs")

    def call(*argv):
        args = parser.parse_args(argv)
        return args.run(args)

    before = weights.read_weights(folder)
    assert call("ema", "toy") == 0 and "0.05, 0.1 and raw" in capsys.readouterr().out
    assert call("ema", "toy", "--length", "0.08", "--out", str(tmp_path / "x"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["length"] == 0.08 and 0 < told["profile_error"] < 0.01 and (tmp_path / "x" / "config.json").is_file()
    assert all(torch.equal(v, before[k]) for k, v in weights.read_weights(folder).items()), "nothing is kept unasked"
    assert call("ema", "toy", "--length", "0.15", "--keep") == 0
    assert "0.15" in checkpoint.open_checkpoint(folder).config.ema
    assert posthoc_ema.deviation(weights.read_weights(folder), direct[0.15]) < 1e-3
    assert call("ema", "toy", "--length", "raw", "--keep") == 0 and "raw" in checkpoint.open_checkpoint(folder).config.ema
    assert call("ema", "toy", "--length", "0.05", "--keep") == 0
    assert posthoc_ema.deviation(weights.read_weights(folder), before) < 1e-4, "and the way back is open"
    assert call("ema", "toy", "--length", "raw", "--snapshot", "0000000160", "--keep") == 0
    assert checkpoint.open_checkpoint(folder).config.images_seen == 160
    assert call("ema", "toy", "--length", "own", "--keep") == 0 and checkpoint.open_checkpoint(folder).config.images_seen == 8 * STEPS
    assert posthoc_ema.deviation(weights.read_weights(folder), before) < 1e-4, "the run's own EMA can be kept again"
    for wrong in (
        ["--length", "own", "--out", str(tmp_path / "y")],
        ["--length", "0.5"],
        ["--length", "long"],
        ["--length", "nan"],
        ["--keep"],
        ["--length", "0.08", "--snapshot", "../x"],
    ):
        with pytest.raises(ValueError):
            call("ema", "toy", *wrong)


def test_keeping_waits_for_the_end_of_the_run(run, monkeypatch):
    folder, _ = run
    monkeypatch.setattr(runs.Run, "status", lambda self: ("running", ""))
    with pytest.raises(ValueError, match="running"):
        posthoc_ema.keep(runs.Run(folder), 0.08)


def test_damaged_averages_are_refused(run, tmp_path):
    folder, _ = run
    copy = tmp_path / "toy"
    __import__("shutil").copytree(folder, copy)
    snapshots = sorted((copy / "snapshots").iterdir())
    (snapshots[3] / "ema-0.1.safetensors").write_bytes(b"x")
    with pytest.raises(description.CheckpointError, match="ema-0.1"):
        posthoc_ema.reconstruct(copy, 0.08)
    (snapshots[3] / "profiles.json").write_text('{"step": 3, "files": {"../../x": 0.1, "raw.safetensors": "raw"}}')
    assert len([p for p in posthoc_ema.stored(copy) if p.snapshot == snapshots[3]]) == 1, "no name leaves the snapshot"
    (snapshots[3] / "profiles.json").write_text("[")
    assert posthoc_ema.reconstruct(copy, 0.08)[1].used == 2 * SNAPSHOTS - 2
    for p in copy.glob("snapshots/*/profiles.json"):
        p.unlink()
    with pytest.raises(ValueError, match="no stored averages"):
        posthoc_ema.reconstruct(copy, 0.08)


def test_lengths_are_read_from_text():
    assert average_lengths("0.1, 0.05") == (0.05, 0.1) and average_lengths("none") == ()
    for wrong in ("x", "0.05,0.5", "0", "0.01,0.02,0.03,0.04,0.05", "nan"):
        with pytest.raises(ValueError, match="averages"):
            average_lengths(wrong)


def test_snapshot_points():
    assert posthoc_ema.snapshot_points(2) == [0.5, 1.0] and len(posthoc_ema.snapshot_points(20)) == 22
