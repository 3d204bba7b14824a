"""Training: resuming equals never having stopped, bit for bit; each part beside its own formula; and it learns."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from ddpm_app.images.datasets import ImageData, load_data
from ddpm_app.images.pixels import to_model
from ddpm_app.networks import unet_config
from ddpm_app.networks.ema import Ema, power_gamma
from ddpm_app.training import trainer as training
from ddpm_app.training.config import RECIPES, TrainConfig
from ddpm_app.training.trainer import Trainer, train, validation_loss


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """A preset that takes milliseconds; dropout on, because resuming has to repeat it, too."""
    monkeypatch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1))


def toy(n=24, size=8, classes=3, name="toy") -> ImageData:
    """Flat pictures whose brightness says which one they are; the class is a column of light."""
    images = torch.arange(n, dtype=torch.uint8).mul(10).reshape(n, 1, 1, 1).repeat(1, 1, size, size)
    labels = torch.arange(n) % classes
    for k in range(n):
        images[k, :, :, int(labels[k])] = 255
    return ImageData(name, images, labels, tuple("abc"[:classes]))


def config(**changes) -> TrainConfig:
    base = dict(data="toy", preset="micro", images=160, batch=16, lr=2e-3, warmup=32, device="cpu", precision="fp32", seed=3)
    return TrainConfig(**{**base, **changes})


def run(trainer, steps=None, every=1000):
    """Train for so many steps (or to the end) and return the events."""
    end = math.inf if steps is None else trainer.step + steps
    return list(train(trainer, every, lambda: trainer.step >= end))


def state(trainer):
    tensors = [*trainer.parameters, *trainer.ema.values]
    for p in trainer.parameters:
        tensors += [trainer.optimiser.state[p][k] for k in ("exp_avg", "exp_avg_sq", "step")]
    return [t.detach().clone() for t in tensors]


# -- resume -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4, 9])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, stop, precision):
    whole = Trainer(config(precision=precision), toy())
    run(whole)
    first = Trainer(config(precision=precision), toy())
    run(first, stop)
    first.save_state(tmp_path / "state.safetensors")
    torch.manual_seed(99)  # a new process begins somewhere else
    second = Trainer(config(precision=precision), toy())
    second.load_state(tmp_path / "state.safetensors")
    assert (second.step, second.images) == (stop, stop * 16)
    run(second)
    assert second.step == whole.step == 10 and second.images == 160
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(second), strict=True))


def test_a_state_of_other_settings_is_refused(tmp_path):
    trainer = Trainer(config(), toy())
    run(trainer, 1)
    trainer.save_state(tmp_path / "s")
    with pytest.raises(ValueError, match="lr, seed"):
        Trainer(config(lr=1e-3, seed=4), toy()).load_state(tmp_path / "s")
    Trainer(config(images=10_000), toy()).load_state(tmp_path / "s")  # a budget may grow
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:500])
    with pytest.raises(ValueError, match="incomplete"):
        Trainer(config(), toy()).load_state(tmp_path / "s")


def test_runs_depend_on_the_seed_alone():
    one, two, other = (Trainer(config(seed=s), toy()) for s in (3, 3, 4))
    losses = [torch.cat([t.train_step()[0] for _ in range(3)]) for t in (one, two, other)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


# -- data ---------------------------------------------------------------------------------------------------------------


def recovered(trainer, x0):
    """Which picture each row of a batch is, from the brightness of its last column."""
    return ((x0[:, 0, 0, -1] + 1) * 12.75).round().long().tolist()


@pytest.mark.parametrize("batch", [5, 8, 24, 60])
def test_every_picture_comes_once_an_epoch(batch):
    trainer = Trainer(config(batch=batch, flip="no", images=10**6), toy())
    seen = []
    while len(seen) < 24 * 5:
        x0, t, eps, label = trainer.batch()
        assert x0.shape == eps.shape == (batch, 1, 8, 8) and t.shape == label.shape == (batch,)
        seen += recovered(trainer, x0)
        trainer.step, trainer.images = trainer.step + 1, trainer.images + batch
    epochs = [seen[k * 24 : k * 24 + 24] for k in range(5)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5, "in a new order each time"


def test_a_batch_is_what_the_loss_expects():
    data, trainer = toy(), Trainer(config(batch=4096, flip="yes", label_dropout=0.25, T=50), toy())
    x0, t, eps, label = trainer.batch()
    index = torch.tensor([int(v) for v in ((x0[:, 0, 0].min(1).values + 1) * 12.75).round()])
    assert x0.min() >= -1 and x0.max() <= 1 and set(t.tolist()) == set(range(50))
    assert abs(float(eps.mean())) < 0.01 and abs(float(eps.std()) - 1) < 0.01
    dropped = label == 3
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.03)
    plain = to_model(data.images)[index]
    mirrored = (x0 == plain.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (x0 == plain).flatten(1).all(1)).all()) and float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert bool((label == data.labels[index])[~dropped].all())
    again = trainer.batch()
    assert all(torch.equal(a, b) for a, b in zip((x0, t, eps, label), again)), "drawn from (seed, step) alone"
    trainer.step += 1
    assert not torch.equal(trainer.batch()[2], eps)


def test_flips_and_classes_by_default():
    assert not Trainer(config(), toy(name="mnist")).flip and Trainer(config(), toy()).flip
    assert Trainer(config(label_dropout=1.0), toy()).network.config.num_classes == 0
    unconditional = Trainer(config(label_dropout=1.0), toy())
    run(unconditional, 1)


# -- parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_power_function_ema(width):
    """Karras et al. 2024: the average weighs step k of n by k^(g+1) - (k-1)^(g+1), and its relative deviation is `width`."""
    gamma, n = power_gamma(width), 400
    assert width == pytest.approx(math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)), rel=1e-9)  # their eq. 126
    steps = torch.eye(n, dtype=torch.float64)
    ema = Ema([torch.full((n,), 7.0, dtype=torch.float64)], width)  # what it starts from is forgotten at once
    for k in range(n):
        ema.update([steps[k]], ema.decay(k + 1))
    k = torch.arange(1, n + 1, dtype=torch.float64)
    want = (k ** (gamma + 1) - (k - 1) ** (gamma + 1)) / n ** (gamma + 1)
    torch.testing.assert_close(ema.values[0], want, rtol=1e-6, atol=1e-12)
    mean = float((want * k).sum() / n)
    assert math.sqrt(float((want * (k / n - mean) ** 2).sum())) == pytest.approx(width, rel=0.02)


def test_fixed_and_no_ema():
    values = [torch.randn(3, dtype=torch.float64) for _ in range(50)]
    ema, none, want = Ema([values[0]], 0.9999), Ema([values[0]], 0.0), values[0].clone()
    for k, value in enumerate(values, 1):
        ema.update([value], ema.decay(k))
        none.update([value], none.decay(k))
        decay = min(0.9999, (1 + k) / (10 + k))
        want = decay * want + (1 - decay) * value
    torch.testing.assert_close(ema.values[0], want)
    assert torch.equal(none.values[0], values[-1])
    assert "0.9999" in ema.describe() and "raw" in none.describe() and "0.05" in Ema([values[0]], 0.05).describe()


def test_learning_rate():
    trainer = Trainer(config(images=10_000, warmup=640, batch=16, lr=1e-3), toy())
    rates = []
    for images in (0, 304, 624, 640, 5000, 10_000):
        trainer.images = images
        rates.append(trainer.learning_rate())
    want = [16 / 640, (320 / 640) * 0.9696, 1 * 0.9376, 0.936, 0.5, 0]
    assert rates == pytest.approx([1e-3 * w for w in want], rel=1e-9)
    trainer = Trainer(config(images=1000, warmup=20_000, decay="none"), toy())
    trainer.images = 100
    assert trainer.learning_rate() == trainer.config.lr, "warm-up takes a tenth of a short budget at most"
    by_time = Trainer(config(images=0, minutes=2.0, warmup=0), toy())
    by_time.seconds = 30
    assert by_time.learning_rate() == pytest.approx(by_time.config.lr * 0.75) and by_time.progress() == 0.25
    trainer = Trainer(config(warmup=0), toy())
    run(trainer, 1)
    assert trainer.optimiser.param_groups[0]["lr"] == trainer.config.lr, "the first step has the rate of no progress"


def test_the_classic_recipe_is_ho_et_al():
    classic = TrainConfig(images=1, **RECIPES["classic"])
    assert (classic.preset, classic.prediction_type, classic.schedule, classic.batch, classic.lr) == ("ddpm", "eps", "linear", 128, 2e-4)
    assert (classic.ema, classic.weight_decay, classic.clip) == (0.9999, 1e-4, 1.0)


def test_gradients_are_clipped():
    trainer = Trainer(config(clip=1e-3), toy())
    norm = trainer.train_step()[2]
    clipped = torch.stack([p.grad.norm() for p in trainer.parameters]).norm()
    assert float(norm) > 1e-2 and float(clipped) == pytest.approx(1e-3, rel=1e-3)


# -- the loop -----------------------------------------------------------------------------------------------------------


def test_events_hold_steps_images_and_losses():
    trainer = Trainer(config(images=176), toy())
    events = run(trainer, every=4)
    assert [e.step for e in events] == [4, 8, 11] and [e.images for e in events] == [64, 128, 176]
    assert events[-1].progress == 1 and [e.progress for e in events] == sorted(e.progress for e in events)
    assert all(len(e.loss_by_level) == 10 and e.loss > 0 and e.images_per_s > 0 and e.grad_norm > 0 for e in events)
    assert events[1].seconds > events[0].seconds and run(trainer) == []
    first = Trainer(config(images=176), toy())
    losses = torch.stack([first.train_step()[0] for _ in range(4)])
    assert events[0].loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_loss_by_level_is_the_mean_in_each_tenth_of_t():
    trainer, other = (Trainer(config(batch=64, images=64 * 4), toy()) for _ in range(2))
    by_level = run(trainer, every=4)[0].loss_by_level
    found = [[] for _ in range(10)]
    for _ in range(4):
        t = other.batch()[1]
        for level, loss in zip(t // 100, other.train_step()[0]):
            found[int(level)].append(float(loss))
    assert by_level == pytest.approx([sum(v) / len(v) for v in found], rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run():
    trainer = Trainer(config(), toy())
    with torch.no_grad():
        trainer.parameters[0].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1;"):
        run(trainer)


@pytest.mark.parametrize("prediction_type, schedule", [("v", "cosine"), ("eps", "linear"), ("x0", "cosine"), ("edm", "cosine")])
def test_training_lowers_the_held_out_loss(prediction_type, schedule):
    """Held-out loss on flat pictures: far below that of the untrained network, with every prediction type."""
    trainer = Trainer(
        config(images=32 * 100, batch=32, prediction_type=prediction_type, schedule=schedule, lr=5e-3, warmup=100, ema=0.1), toy(size=4)
    )
    before = validation_loss(trainer, toy(size=4))
    raw = [p.detach().clone() for p in trainer.parameters]
    events = run(trainer, every=20)
    after = validation_loss(trainer, toy(size=4))
    assert after < 0.7 * before and events[-1].loss < events[0].loss
    raw = [p.detach().clone() for p in trainer.parameters]
    assert validation_loss(trainer, toy(size=4)) == after, "the same pictures, times and noise each time"
    assert all(torch.equal(a, b) for a, b in zip(raw, trainer.parameters)) and trainer.network.training


def test_validation_uses_the_average():
    trainer = Trainer(config(ema=0.0), toy())
    run(trainer, 3)
    raw = validation_loss(trainer, toy())
    for value in trainer.ema.values:
        value.mul_(1.5)
    assert validation_loss(trainer, toy()) != raw


def test_weights_are_a_checkpoint():
    trainer = Trainer(config(), toy())
    run(trainer, 2)
    assert trainer.weights().keys() == trainer.network.state_dict().keys()
    assert not all(torch.equal(a, b) for a, b in zip(trainer.weights().values(), trainer.weights(ema=False).values()))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(images=0),
        dict(minutes=1.0),
        dict(images=-5),
        dict(batch=0),
        dict(lr=0.0),
        dict(lr=math.nan),
        dict(ema=1.0),
        dict(label_dropout=2),
        dict(T=0),
        dict(dropout=3.0),
        dict(clip=0.0),
        dict(minutes=1e9, images=0),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="budget|is accepted|2 to 100000"):
        config(**wrong)


def test_flags_are_the_settings():
    assert all(f.metadata["setting"].help for f in dataclasses.fields(TrainConfig))
    assert training.TrainConfig(minutes=1).prediction_type == "v" and json.dumps(dataclasses.asdict(config()))


def test_real_mnist_trains():
    if not any((root / "mnist-train.npz").exists() for root in __import__("ddpm_app.paths", fromlist=["x"]).data_roots()):
        pytest.skip("no mnist-train.npz in $DDPM_DATA or ../shared/data")
    data = load_data("mnist")
    trainer = Trainer(config(data="mnist", preset="micro", batch=64, images=64 * 20, lr=5e-3, warmup=64), data.subset(torch.arange(2000)))
    events = run(trainer, every=5)
    assert events[-1].loss < 0.75 * events[0].loss
