"""What makes a training step faster on a GPU: torch.compile for the network, and a CUDA graph for the whole step.

A step of a small U-Net is about a thousand kernels, and one CPU core needs up to 70 ms to launch them, whatever the batch. A CUDA graph
records them once and launches all of them with one call. What is recorded must not decide on data, must not wait for the device, and
must read and write the same tensors each time. Trainer.update obeys this; tests/training/test_compile.py replays it on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the recording: they choose kernels and allocate the optimiser's state


def compile_step(trainer) -> str:
    """Compile the network and record the step as trainer.config.compile asks for it, and try both.

    trainer: a trainer.Trainer. Returns "", or why one is not used."""
    c = trainer.config
    if c.compile == "no" or (c.compile == "auto" and (trainer.device.type != "cuda" or 0 < c.minutes < 5)):
        return ""
    if c.compile == "graph" and (trainer.device.type != "cuda" or trainer.world.size > 1):
        return "--compile graph: a CUDA graph needs CUDA and a single process; training without it"
    problems = [attempt(trainer, "torch.compile", compile_network)]
    if c.compile == "graph":
        problems.append(attempt(trainer, "a CUDA graph", type(trainer).record))
    return "; ".join(filter(None, problems))


def attempt(trainer, name: str, change: Callable[..., None]) -> str:
    """Returns "", or the reason why `change` failed. Lack of memory is not caught."""
    try:
        change(trainer)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, no Triton, an old GPU, ...
        why = (str(error).strip().splitlines() or [""])[0][:160]
        return f"{name} does not work here ({type(error).__name__}: {why}); training without it"
    finally:
        trainer.optimiser.zero_grad(set_to_none=True)
    return ""


def compile_network(trainer) -> None:
    """torch.compile the network and try it on the current batch. The network stays as it was if that fails."""
    plain = trainer.denoiser
    try:
        trainer.denoiser = dataclasses.replace(plain, network=torch.compile(trainer.network))
        inputs = trainer.batch()
        with torch.autocast(trainer.device.type, trainer.dtype, enabled=trainer.dtype != torch.float32):
            trainer.loss(*inputs).mean().backward()
    except Exception:
        trainer.denoiser = plain
        raise


class StepGraph:
    """`update` recorded as a CUDA graph. Calling it replays the recording and returns copies of what `update` returned.

    update: a training step on tensors that stay where they are. state(): every tensor that `update` changes, as they are at the time of
    the call; the warm-up's changes are taken back.
    Raises RuntimeError where the step cannot be recorded; the state is then as it was before.
    """

    def __init__(self, update: Callable[[], tuple[Tensor, ...]], state: Callable[[], list[Tensor]]):
        before = {id(tensor): (tensor, tensor.detach().clone()) for tensor in state()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    update()
        finally:
            torch.cuda.current_stream().wait_stream(stream)
            take_back(before, state())
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = update()

    def __call__(self) -> tuple[Tensor, ...]:
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)  # the next replay writes over them


@torch.no_grad()
def take_back(before: dict[int, tuple[Tensor, Tensor]], now: list[Tensor]) -> None:
    """Give each tensor in `now` its value from `before`, {id: (tensor, copy)}. Those made since then, the optimiser's moments, become 0."""
    for tensor in now:
        if id(tensor) in before:
            tensor.copy_(before[id(tensor)][1])
        else:
            tensor.zero_()
