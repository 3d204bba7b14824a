"""Training of toys: alone and in a stack, reproducibility, errors for bad settings."""

import pytest
import torch

from ddpm_app.toy.shapes import make_data
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_one, train_toys


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


def test_training_is_reproducible_and_lowers_the_loss():
    data = make_data("moons", n=2000)
    config = ToyTrainConfig("linear", prediction_type="eps", width=64, steps=400, batch=128, T=100, params={"beta_end": 0.2}, seed=3)
    trainer = ToyTrainer([config], data)
    events = list(train_toys(trainer, every=100))
    assert [e.step for e in events] == [100, 200, 300, 400] and events[-1].loss[0] < 0.6 * events[0].loss[0]
    again = train_one(config, data)
    for a, b in zip(trainer.networks()[0].parameters(), again.network.parameters()):
        assert torch.equal(a, b)


def test_errors_name_the_bad_setting():
    data = make_data("moons", n=100)
    with pytest.raises(ValueError, match="T is 1"):
        ToyTrainer([ToyTrainConfig(T=1)], data)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ToyTrainer([ToyTrainConfig("linear", params={"beta_end": 1.5})], data)
    with pytest.raises(ValueError, match="share width"):
        ToyTrainer([ToyTrainConfig(width=16), ToyTrainConfig(width=32)], data)
    with pytest.raises(ValueError, match="steps is 0; a whole number from 1 to 1000000 is accepted"):
        ToyTrainConfig(steps=0)
