"""The benchmarks run, their figures are consistent, and the compared programs compute the same."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_app.bench import sampling, training
from ddpm_app.cli.main import main
from ddpm_app.images.datasets import ImageData
from ddpm_app.networks import unet, unet_config
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.probe import stand_in
from ddpm_app.training.trainer import Trainer, validation_loss


def bench(*flags):
    return main(["bench", "--device", "cpu", *flags])


def test_quick_sampling_figures_are_consistent_and_diffusers_gives_the_same_images(capsys):
    """In float32, so that the results of both programs agree up to rounding after their two steps."""
    assert bench("--quick", "--json", "--precision", "fp32") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(row["preset"], row["batch"]) for row in facts["networks"]] == [("tiny", 1), ("tiny", 2)]
    for row in facts["networks"]:
        assert row["images_per_s"] > 0 and 0 < row["share"] < 2
        assert row["share"] == pytest.approx(row["images_per_s"] * row["gflop_per_image"] / max(facts["matmul"].values()))
    if importlib.util.find_spec("diffusers"):
        d = facts["diffusers"]
        assert d["difference"] < 1e-3 and d["ratio"] == pytest.approx(d["ours"] / d["theirs"]) and d["ours"] > 0
    text = sampling.table(facts)
    assert "tiny" in text and "GFLOP/s" in text and "fp32" in text


def test_without_diffusers_the_comparison_is_skipped(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bench("--quick") == 0
    assert "diffusers: not installed" in capsys.readouterr().out


def test_bad_arguments_are_refused(capsys):
    assert bench("--rounds", "0") == 2 and "rounds is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench("--precision", "fp8")


# -- training -------------------------------------------------------------------------------------------------------------


class FailsOnSynchronization(TorchDispatchMode):
    """Fails on operations that make the host wait for a GPU: reading a number, and shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        read = name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2")
        mask = name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if read or mask:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("label_dropout", [0.1, 1.0])
def test_a_training_step_never_waits_for_the_device(monkeypatch, label_dropout):
    monkeypatch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1))
    config = TrainConfig(
        data="digits", preset="micro", images=640, batch=48, flip="yes", device="cpu", weight="min-snr-5", label_dropout=label_dropout
    )
    data = ImageData("digits", torch.zeros(100, 1, 8, 8, dtype=torch.uint8), torch.arange(100) % 10, tuple("0123456789"))
    trainer = Trainer(config, data)
    assert trainer.learning_rate() > 0 and trainer._epoch(0) is not None  # made once an epoch, copied asynchronously
    with FailsOnSynchronization():
        for _ in range(2):  # the first builds the optimiser's state
            trainer.train_step()
    assert trainer.step == 2
    for wrong in (lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: bool((x > 0).any())):
        with pytest.raises(AssertionError, match="waits"), FailsOnSynchronization():
            wrong(torch.ones(3))


def test_quick_training_figures_are_consistent(capsys):
    assert bench("--train", "--quick", "--json", "--rounds", "1") == 0
    facts = json.loads(capsys.readouterr().out)
    (row,) = facts["training"]
    assert row["preset"] == "tiny" and row["images_per_s"] > 0 and row["ratio"] > 0 and row["note"] == ""
    assert row["gflop_per_image"] == pytest.approx(
        3 * unet.forward_flops(unet.UNet(unet_config.preset_config("tiny", num_classes=10))) / 1e9
    )
    assert row["share"] == pytest.approx(row["images_per_s"] * row["gflop_per_image"] / facts["matmul"])
    assert "tiny" in training.table(facts) and "plain float32" in training.table(facts)
    with pytest.raises(ValueError, match="giant"):
        training.bench_train("cpu", presets="giant")
    with pytest.raises(ValueError, match="rounds is 0"):
        training.bench_train("cpu", rounds=0)


def test_the_plain_loop_takes_the_same_steps():
    """With the same batch, its loss and gradient norm equal those of Trainer's step in float32."""
    config = TrainConfig(data="cifar10", preset="tiny", images=64, batch=4, device="cpu", precision="fp32", weight="uniform")
    trainer = Trainer(config, stand_in(config))
    plain = training.Plain(trainer.network, trainer)
    x0, t, eps, label = trainer.batch()
    losses, _, norm = trainer.train_step()
    plain.loss(x0, t, eps, label).mean().backward()
    torch.testing.assert_close(plain.loss(x0, t, eps, label).detach(), losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.nn.utils.get_total_norm([p.grad for p in plain.network.parameters()]), norm, rtol=1e-3, atol=1e-5)
    assert plain.step() > 0 and not torch.equal(next(plain.average.parameters()), next(plain.network.parameters()))


def test_a_missing_compiler_is_reported(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", missing)
    config = TrainConfig(data="cifar10", preset="tiny", images=64, batch=2, device="cpu", precision="fp32", compile="yes")
    trainer = Trainer(config, stand_in(config))
    before = trainer.denoiser
    assert trainer.compile() == "torch.compile does not work here (RuntimeError: no C++ compiler); training without it"
    assert trainer.denoiser is before and all(p.grad is None for p in trainer.parameters)
    trainer.train_step()
    trainer.config = dataclasses.replace(config, compile="auto")
    assert trainer.compile() == "", "not on a CPU by itself"


def test_a_compiled_network_trains_the_same_weights(monkeypatch):
    """With the eager backend of torch.compile, the training steps and the names of the weights stay the same."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: real(network, backend="eager"))
    config = TrainConfig(data="cifar10", preset="tiny", images=64, batch=2, device="cpu", precision="fp32", compile="yes")
    one, two = (Trainer(c, stand_in(config)) for c in (config, dataclasses.replace(config, compile="no")))
    assert one.compile() == two.compile() == "" and one.denoiser.network is not one.network
    for trainer in (one, two):
        trainer.train_step()
    assert one.weights().keys() == two.weights().keys()
    for a, b in zip(one.parameters, two.parameters):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    held = stand_in(config).subset(torch.arange(6))
    assert validation_loss(one, held) == pytest.approx(validation_loss(two, held), rel=1e-5)
