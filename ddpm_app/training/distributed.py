"""Training on several GPUs or machines: one process each, started by `accelerate launch` (or torchrun).

Every process holds the whole data set and the whole network, draws the random numbers of the whole batch and trains on its
slice of it. Gradients are added up before they are clipped, so that all processes take the same step. Only rank 0 measures time
and writes the log and the run's folder. A single process is a World of size 1, which exchanges nothing.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import Tensor

PATIENCE = timedelta(days=365)  # a paused run waits for as long as it is paused


class World:
    """The processes of one run. rank: which of them this is, 0 to size - 1."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._control = None  # a process group on the CPUs, so that no GPU waits for decisions

    @property
    def main(self) -> bool:
        """Whether this process is rank 0, which measures time and writes files."""
        return self.rank == 0

    def slice(self, n: int) -> slice:
        """This process's part of n items. Parts differ by at most one. Raises ValueError if a part would be empty."""
        if n < self.size:
            raise ValueError(f"{n} images cannot be split over {self.size} processes; at least one each is needed")
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def highest(self, *values: float) -> tuple[float, ...]:
        """The largest of the values that the processes pass, one by one. NaN is ignored."""
        if self.size == 1:
            return values
        largest = torch.tensor(values, dtype=torch.float64).nan_to_num(nan=-torch.inf)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=self._control)
        return tuple(largest.tolist())

    def any(self, flag: bool) -> bool:
        """Whether any process passes True."""
        return bool(self.highest(float(flag))[0])

    def says(self, *values: float) -> tuple[float, ...]:
        """The values that rank 0 passes; those of the other processes are ignored."""
        return self.highest(*(values if self.main else [float("nan")] * len(values)))

    def wait(self) -> None:
        """Wait until every process has called this."""
        self.any(False)

    def add(self, *tensors: Tensor) -> None:
        """Replace tensors, all on one device, by their sums over the processes, in one exchange for each dtype."""
        if self.size > 1:
            for dtype in dict.fromkeys(t.dtype for t in tensors):
                same = [t for t in tensors if t.dtype == dtype]
                flat = torch.cat([t.flatten() for t in same])
                torch.distributed.all_reduce(flat)
                torch._foreach_copy_(same, [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in same]), same)])

    def lowest(self, value: Tensor) -> None:
        """Replace a tensor by the smallest over the processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)

    def copy(self, *tensors: Tensor) -> None:
        """Replace tensors by the ones of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def same(self, value):
        """The value of rank 0, any object that can be pickled."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, 0, group=self._control)
        return values[0]

    def gather(self, part: Tensor) -> Tensor:
        """The slices (n_r, ...) of all processes in order, on the CPU, (n, ...)."""
        if self.size == 1:
            return part.cpu()
        parts = [None] * self.size
        torch.distributed.all_gather_object(parts, part.cpu(), group=self._control)
        return torch.cat(parts)

    def close(self) -> None:
        """Wait for all processes, then end the process group."""
        if self.size > 1:
            self.wait()
            self._control = None  # a group that still exists when Python exits can crash the process
            torch.distributed.destroy_process_group()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def join(device: str = "auto") -> World:
    """The processes that a launcher started together with this one, through Accelerate: NCCL between GPUs, gloo between CPUs.

    A World of size 1 if there are none. device: as for device.pick_device; afterwards "auto" and "cuda" mean this process's own GPU.
    Raises ValueError if several processes cannot use the device."""
    if not launched():
        return World()
    if ":" in device or device == "mps":
        raise ValueError(f"several processes cannot share {device}; auto, cuda or cpu are accepted, and each takes a GPU of its own")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ValueError("several processes were launched, which needs the package accelerate: pip install accelerate") from error
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    world = World(state.process_index, state.num_processes)
    world._control = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    return world


def share(trainer, world: World) -> None:
    """Copy the training state of rank 0 to every process: weights, averages, moments and counters."""
    if world.size == 1:
        return
    step, images, seconds, moments = world.says(trainer.step, trainer.images, trainer.seconds, float(bool(trainer.optimiser.state)))
    trainer.step, trainer.images, trainer.seconds = int(step), int(images), seconds
    with torch.no_grad():
        world.copy(*trainer.parameters, *(v for ema in trainer.emas for v in ema.values))
        for p in trainer.parameters if moments else ():
            if p not in trainer.optimiser.state:
                counter = torch.zeros((), device=p.device if p.device.type == "cuda" else "cpu")
                trainer.optimiser.state[p] = {"step": counter, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            world.copy(*(trainer.optimiser.state[p][key] for key in ("step", "exp_avg", "exp_avg_sq")))
