"""Two processes (gloo) take the steps of one: the same weights, log and files; they stop, fail and resume together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_app.cli.train import main
from ddpm_app.evaluation import samples
from ddpm_app.images.datasets import ImageData
from ddpm_app.networks import unet_config
from ddpm_app.studio.studio import Request
from ddpm_app.training import distributed
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.distributed import World
from ddpm_app.training.trainer import Trainer, train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "train" / "train_unet.py"
MICRO = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)


@pytest.fixture(autouse=True)
def presets_stay():
    """What a test adds to the presets is gone after it."""
    before = dict(unet_config.PRESETS)
    yield
    unet_config.PRESETS.clear()
    unet_config.PRESETS.update(before)


def together(*command, size=2, wait=240):
    """Start the command as `size` processes of one world; [(exit code, stdout, stderr)] by rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    ranks = [subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, **pipes) for r in range(size)]
    try:
        return [(*reversed(p.communicate(timeout=wait)), p.returncode)[::-1] for p in ranks]
    finally:
        for p in ranks:
            p.kill()


def trainer(world=None, **changes) -> Trainer:
    """Of a micro network, with everything random in use but dropout; a batch of 15 does not divide by two."""
    unet_config.PRESETS["micro"] = MICRO  # taken back by the fixture below
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=g, dtype=torch.uint8)
    data = ImageData("toy", images, torch.arange(40) % 3, ("a", "b", "c"))
    base = dict(data="toy", preset="micro", images=15 * 8, batch=15, lr=2e-3, warmup=0, clip=0.05, label_dropout=0.3, flip="yes")
    return Trainer(TrainConfig(**{**base, "device": "cpu", "precision": "fp32", "seed": 5, **changes}), data, world)


def facts(events) -> list:
    return [[e.step, e.images, e.loss, *e.loss_by_level, e.grad_norm, e.lr] for e in events]


def one_of_two(folder: str) -> None:
    """What each of the two processes of the test below does; called in them."""
    world, told = distributed.join("cpu"), {}
    mine = trainer(world)
    events = list(train(mine, every=4))
    told["events"] = facts(events)
    weights = {
        f"{kind}.{k}": v.detach() for kind, values in (("raw", mine.parameters), ("ema", mine.ema.values)) for k, v in enumerate(values)
    }
    save_file(weights, f"{folder}/weights-{world.rank}")

    stopping = trainer(world, images=0, minutes=60.0)
    list(train(stopping, every=2, should_stop=lambda: world.rank == 1 and stopping.step == 3))
    told["stopped"], told["seconds"] = stopping.step, stopping.seconds

    broken = trainer(world)
    real = broken.denoiser.loss
    object.__setattr__(broken.denoiser, "loss", lambda *a: real(*a) * (float("nan") if world.rank and broken.step == 2 else 1))
    with pytest.raises(FloatingPointError) as raised:
        list(train(broken, every=4))
    told["nan"] = str(raised.value)

    mixed = trainer(world, seed=5 + world.rank)  # every rank begins elsewhere
    mixed.seconds = 7.0 + world.rank
    distributed.share(mixed, world)
    told["shared"] = [float(sum(p.double().sum() for p in mixed.parameters)), mixed.seconds]

    part = torch.arange(7)[world.slice(7)]
    told |= {"gathered": world.gather(part).tolist(), "part": part.tolist(), "any": world.any(world.rank == 1)}
    told["said"], told["same"] = world.says(3.5 if world.main else 9.0), world.same({"rank": world.rank})
    masks = trainer(world, dropout=0.5)
    torch.manual_seed(0)
    told["masks"] = float(masks.train_step()[0].double().sum())
    Path(f"{folder}/told-{world.rank}.json").write_text(json.dumps(told))
    world.close()


def test_two_processes_take_the_steps_of_one(tmp_path):
    code = f"import torch; torch.set_num_threads(1); from tests.training.test_distributed import one_of_two; one_of_two({str(tmp_path)!r})"
    for status, _, said in together(sys.executable, "-c", code):
        assert status == 0, said[-2000:]
    alone = trainer()
    events = list(train(alone, every=4))
    first, second = (json.loads((tmp_path / f"told-{r}.json").read_text()) for r in range(2))
    one, two = (load_file(tmp_path / f"weights-{r}") for r in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one), "both took the same steps, bit for bit"
    for kind, values in (("raw", alone.parameters), ("ema", alone.ema.values)):
        for k, value in enumerate(values):
            torch.testing.assert_close(one[f"{kind}.{k}"], value.detach(), rtol=0, atol=1e-5)
    assert first["events"] == second["events"]
    np.testing.assert_allclose(np.array(first["events"], float), np.array(facts(events), float), rtol=2e-4)  # NaN equals NaN
    assert min(e.grad_norm for e in events) > 2 * alone.config.clip, "clipping was at work"
    assert first["stopped"] == second["stopped"] == 3 and first["seconds"] == second["seconds"] > 0
    assert first["nan"] == second["nan"] and "at step 3;" in first["nan"]
    assert first["shared"] == second["shared"] and first["shared"][1] == 7.0
    assert first["part"] == [0, 1, 2] and second["part"] == [3, 4, 5, 6]
    assert first["gathered"] == second["gathered"] == list(range(7)) and first["any"] and second["any"]
    assert first["said"] == second["said"] == [3.5] and first["same"] == second["same"] == {"rank": 0}
    assert first["masks"] != second["masks"]


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "toy.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(file, arr_0=images, arr_1=np.arange(40) % 3)
    return str(file)


def test_the_script_on_one_and_on_two(tmp_path, npz):
    """27 images by one process, then 27 by two, then 18 by one, beside 72 by one: one log, the same state."""
    flags = ["--data", npz, "--batch", "9", "--lr", "1e-3", "--warmup", "0", "--decay", "none", "--device", "cpu", "--precision", "fp32"]
    flags += ["--every", "3", "--snapshots", "1", "--averages", "0.1"]
    out = tmp_path / "mixed"
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main([*flags, "--validations", "0", "--images", "27", "--out", str(out)]) == 0
        resumed = ["--resume", "auto", "--validations", "1", "--images", "54"]
        done = together(sys.executable, str(SCRIPT), *flags, *resumed, "--out", str(out))
        assert [d[0] for d in done] == [0, 0], done
        assert "2 processes" in done[0][1] and done[1][1] == "", "rank 0 alone speaks"
        assert json.loads((out / "end.json").read_text())["status"] == "finished"
        assert len(list((out / "samples").glob("*.png"))) == 1 and (out / "snapshots" / "0000000054").is_dir()
        assert main([*flags, "--validations", "0", "--images", "72", "--resume", "auto", "--out", str(out)]) == 0
        assert main([*flags, "--validations", "0", "--images", "72", "--out", str(tmp_path / "one")]) == 0
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log if "loss" in r] == [3, 6, 8] and sum("validation_loss" in r for r in log) == 1
    mixed, alone = (load_file(tmp_path / name / "state.safetensors") for name in ("mixed", "one"))
    assert mixed.keys() == alone.keys()
    for key in alone:
        torch.testing.assert_close(mixed[key], alone[key], rtol=0, atol=1e-5, msg=key)


def test_processes_share_out_the_samples_of_an_evaluation(tmp_path, monkeypatch, studio):
    """Two make every other batch; together these are what one makes, found without a step of the network."""
    monkeypatch.setattr(samples, "MAX_BATCH", 2)
    request, made = Request("cifar10-random", "all", 10, 1.0, "ddim", 1, seed=3), {}

    def exhaust(events):
        while True:
            try:
                next(events)
            except StopIteration as end:
                return end.value[0]

    for name, shares in (("one", [(0, 1)]), ("two", [(1, 2), (0, 2)])):
        monkeypatch.setenv("DDPM_CACHE", str(tmp_path / name))
        for k, share in enumerate(shares):
            exhaust(samples.sampled(studio, request, share=share))
            files = list((tmp_path / name).rglob("*.u8"))
            assert len(files) == (5 if len(shares) == 1 else (2, 5)[k])
        with monkeypatch.context() as patch:
            patch.setattr(studio, "sample", None)
            made[name] = exhaust(samples.sampled(studio, request)).all()
    assert torch.equal(made["one"], made["two"])


def test_a_batch_too_small_to_split():
    with pytest.raises(ValueError, match="3 images cannot be split over 4 processes"):
        World(0, 4).slice(3)
    parts = [list(range(10))[World(r, 4).slice(10)] for r in range(4)]
    assert sum(parts, []) == list(range(10)) and {len(p) for p in parts} == {2, 3}


def test_a_single_process_does_not_load_accelerate(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    code = "import sys; sys.path.insert(0, 'train'); import train_unet; print('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "False"
    world = distributed.join("cpu")
    assert (world.rank, world.size, world.main) == (0, 1, True) and world.says(1.5) == (1.5,)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for device in ("cuda:0", "mps"):
        with pytest.raises(ValueError, match="GPU of its own"):
            distributed.join(device)
