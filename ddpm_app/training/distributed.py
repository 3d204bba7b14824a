"""Training on several GPUs or machines: one process each, started by `accelerate launch` (or torchrun).

Every process holds the whole data set and the whole network, draws the random numbers of the whole batch and trains on its
slice of it; gradients are added up before they are clipped, so that all take the same step. Rank 0 alone keeps the clock, the
log and the run's folder. A process on its own is a World of size 1, in which nothing is exchanged.
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
        self._control = None  # a group of the CPUs: what is agreed there makes no GPU wait

    @property
    def main(self) -> bool:
        """Whether this process keeps the clock, the log and the folder."""
        return self.rank == 0

    def slice(self, n: int) -> slice:
        """This process's part of n things; the parts differ by one at most. Raises ValueError where one would be empty."""
        if n < self.size:
            raise ValueError(f"{n} images cannot be split over {self.size} processes; at least one each is needed")
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def highest(self, *values: float) -> tuple[float, ...]:
        """The largest each of the processes says; NaN is taken for nothing said."""
        if self.size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64).nan_to_num(nan=-torch.inf)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self._control)
        return tuple(told.tolist())

    def any(self, flag: bool) -> bool:
        return bool(self.highest(float(flag))[0])

    def says(self, *values: float) -> tuple[float, ...]:
        """What rank 0 gives here; the others' values do not matter."""
        return self.highest(*(values if self.main else [float("nan")] * len(values)))

    def wait(self) -> None:
        """Until every process is here."""
        self.any(False)

    def add(self, *tensors: Tensor) -> None:
        """Replace tensors, all of one device, by their sums over the processes: one exchange for all of one type."""
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
        """Replace tensors by those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def same(self, thing):
        """rank 0's, where it can be pickled."""
        if self.size == 1:
            return thing
        box = [thing]
        torch.distributed.broadcast_object_list(box, 0, group=self._control)
        return box[0]

    def gather(self, part: Tensor) -> Tensor:
        """The slices (n_r, ...) of all processes in order, on the CPU, (n, ...)."""
        if self.size == 1:
            return part.cpu()
        parts = [None] * self.size
        torch.distributed.all_gather_object(parts, part.cpu(), group=self._control)
        return torch.cat(parts)

    def close(self) -> None:
        """Leave together."""
        if self.size > 1:
            self.wait()
            self._control = None  # a group that is still held when Python ends takes its threads, and the process, down with it
            torch.distributed.destroy_process_group()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def join(device: str = "auto") -> World:
    """The processes that were launched together with this one, through Accelerate: NCCL between GPUs, gloo between CPUs. Alone
    where none was. device: as in device.pick_device; afterwards "auto" and "cuda" are this process's own GPU. Raises ValueError."""
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
    """Give every process rank 0's state of training: weights, averages, moments and counters. Only rank 0 needs to have read it."""
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
