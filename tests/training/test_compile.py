"""A step that a CUDA graph can record: replaying its operations trains the same weights as taking the steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm_app.networks import unet_config
from ddpm_app.training.compile import compile_step, take_back
from ddpm_app.training.trainer import Trainer
from tests.training.test_trainer import config, micro, run, state, toy  # noqa: F401

LONG = dict(averages="0.05,0.1", images=320, T=50)


class Recording(TorchDispatchMode):
    """On a CPU what a CUDA graph is on a GPU: the operations of one call, to be repeated on the same tensors, without any Python between."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.calls:
            given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            new = func(*args, **kwargs)
            for old, value in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, torch.Tensor) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(value)  # a graph writes each result to the same memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replaying_one_recorded_step_equals_taking_the_steps(precision):
    plain, graph = (Trainer(config(precision=precision, **LONG), toy()) for _ in range(2))
    run(plain, 9)
    run(graph, 2)  # creates the optimiser's state, as the warm-up of a graph does
    graph._prepare()
    with Recording() as recording:
        outputs = graph.update()
    graph.step, graph.images = 3, 48
    places = [t.data_ptr() for t in state(graph)] and [t.data_ptr() for t in graph._changed()]
    graph.graph = lambda: recording.replay() or outputs
    run(graph, 6)
    assert all(torch.equal(a, b) for a, b in zip(state(plain), state(graph), strict=True))
    assert all(torch.equal(plain.averages[a].values[0], graph.averages[a].values[0]) for a in plain.averages)
    assert places == [t.data_ptr() for t in graph._changed()], "a graph writes to the tensors that it has recorded"


def test_the_changes_of_a_warm_up_are_taken_back():
    fresh, warm = Trainer(config(**LONG), toy()), Trainer(config(**LONG), toy())
    for trainer in (fresh, warm):
        run(trainer, 0)
    before = {id(t): (t, t.detach().clone()) for t in warm._changed()}
    warm._prepare()
    for _ in range(3):
        warm.update()
    take_back(before, warm._changed())
    run(fresh), run(warm)
    assert all(torch.equal(a, b) for a, b in zip(state(fresh), state(warm), strict=True))


def test_without_cuda_the_step_is_not_recorded_and_the_reason_is_given():
    trainer = Trainer(config(compile="graph"), toy())
    if trainer.device.type == "cpu":
        assert compile_step(trainer) == "--compile graph: a CUDA graph needs CUDA and a single process; training without it"
    assert trainer.graph is None


def test_a_failed_recording_is_reported_and_changes_nothing(monkeypatch):
    trainer, plain = Trainer(config(compile="graph"), toy()), Trainer(config(), toy())
    monkeypatch.setattr("ddpm_app.training.compile.compile_network", lambda trainer: None)

    def fail(self):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(Trainer, "record", fail)
    trainer.device = torch.device("cuda")  # only for the decision
    why = compile_step(trainer)
    trainer.device = torch.device("cpu")
    assert why == ("a CUDA graph does not work here (RuntimeError: operation not permitted when stream is capturing); training without it")
    run(trainer), run(plain)
    assert all(torch.equal(a, b) for a, b in zip(state(plain), state(trainer), strict=True))


@pytest.mark.gpu
def test_a_cuda_graph_trains_the_weights_of_the_plain_step(monkeypatch):
    monkeypatch.setitem(unet_config.PRESETS, "micro", dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0))
    settings = config(device="cuda", compile="graph", images=640)
    graph, plain = Trainer(settings, toy()), Trainer(dataclasses.replace(settings, compile="no"), toy())
    assert compile_step(graph) == "" and graph.graph is not None
    run(graph), run(plain)
    for a, b in zip(state(plain), state(graph), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
