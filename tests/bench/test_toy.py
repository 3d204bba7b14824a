"""The sweep in one computation and as a loop: both train the same networks; one computation is at least three times as fast."""

import json
import time
from functools import partial

import pytest

from ddpm_app.bench import toy
from ddpm_app.cli.main import main
from ddpm_app.toy import experiments
from ddpm_app.toy.shapes import make_data
from ddpm_app.toy.sweeps import SWEEP, Scale
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer


def test_the_loop_and_the_one_computation_give_the_same_rows():
    data, scale = make_data("moons", n=500), Scale(points=60, nll_points=20, bound_points=40, ode_steps=4)
    rows = []
    for loop in (False, True):
        events = list(experiments.steps(data, (5, 20), (0, 1), scale, loop=loop, width=16, steps=30, batch=32))
        assert abs(events[-1].fraction - 1) < 1e-9
        rows.append([row for e in events for row in e.rows])
    for a, b in zip(*rows, strict=True):
        assert [a[k] for k in ("T", "seed", "nll true", "emd data to data")] == [
            b[k] for k in ("T", "seed", "nll true", "emd data to data")
        ]
        assert a["emd"] == pytest.approx(b["emd"], rel=5e-3) and a["nll ode"] == pytest.approx(b["nll ode"], rel=5e-3)


def test_bench_reports_the_sweep_and_the_loop(monkeypatch, capsys):
    monkeypatch.setattr(toy, "DEFAULT_T", (5, 10))
    monkeypatch.setattr(toy, "ToyTrainConfig", partial(ToyTrainConfig, steps=20))
    assert main(["toy", "bench", "--seeds", "2", "--steps", "10", "--points", "20", "--json"]) == 0
    out = capsys.readouterr()
    times = json.loads(out.out)
    for side in ("one computation", "loop"):
        assert times[side]["networks"] == 4
        assert times[side]["train"] + times[side]["measure"] == pytest.approx(times[side]["seconds"])
    assert times["ratio"] == pytest.approx(times["loop"]["seconds"] / times["one computation"]["seconds"])
    assert times["moons alone"] > 0 and times["moons live"] > 0 and "the loop takes" in out.err


@pytest.mark.slow
def test_a_sweep_in_one_computation_is_three_times_as_fast_as_the_loop():
    data = make_data("moons")
    shared = {**SWEEP, "steps": 100, "label_dropout": 1.0}
    configs = [ToyTrainConfig(T=T, seed=s, **shared) for T in (10, 50, 100, 150, 200, 500, 1000) for s in range(3)]
    together, alone = ToyTrainer(configs, data), [ToyTrainer([c], data) for c in configs]
    clock = {"together": 0.0, "loop": 0.0}
    for k in range(5):  # alternating, so that other load on the machine affects both
        for name, trainers in (("together", [together]), ("loop", alone)):
            started = time.perf_counter()
            for trainer in trainers:
                for _ in range(10):
                    trainer.train_step()
            clock[name] += (time.perf_counter() - started) * (k > 0)
    assert clock["loop"] > 3 * clock["together"], clock
