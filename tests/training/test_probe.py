"""The probe measures, and turns a budget in minutes into settings that TrainConfig accepts."""

import dataclasses

import pytest

from ddpm_app.training import probe
from ddpm_app.training.config import TrainConfig


def test_the_smallest_good_batch_and_enough_steps():
    gpu = {64: 9000.0, 128: 17000.0, 256: 24000.0, 512: 24500.0}
    plan = probe.derive(gpu, 25, "small")
    assert plan["batch"] == 256 and plan["images"] == 24000 * 1500 and plan["warmup"] == 20_000
    assert plan["lr"] == pytest.approx(1.6e-3) and plan["steps"] == plan["images"] // 256
    assert probe.derive(gpu, 25, "ddpm")["lr"] == pytest.approx(2.8e-4)
    short = probe.derive(gpu, 0.2, "small")  # twelve seconds: a smaller batch takes more steps
    assert plan["ema"] == 0.05 and plan["validations"] == 20 and short["validations"] == 4
    assert probe.derive({64: 100.0}, 10, "tiny")["ema"] == 0.02, "937 steps: a long average lags"
    assert short["batch"] == 64 and short["warmup"] == short["images"] // 10
    assert probe.derive({512: 1e6, 4096: 2e6}, 100, "small")["lr"] == 2e-3


def test_it_measures_this_machine():
    config = TrainConfig(data="mnist", minutes=3.0, device="cpu")
    found = probe.rates(config, seconds=1.0, batches=(2, 4))
    assert set(found) == {2, 4} and all(rate > 0 for rate in found.values())
    plan = probe.derive(found, 3, "tiny")
    assert dataclasses.replace(config, batch=plan["batch"], lr=plan["lr"], warmup=plan["warmup"]).batch in (2, 4)
