"""One process or many: plain ``python`` is a world of one, ``torchrun`` any number of ranks.

CPU tensors travel by gloo and CUDA tensors by NCCL, in one process group. Small decisions (stop, fail) travel as CPU
integers, so that they never wait for a GPU kernel; whether a step is skipped stays on the device.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from engine.errors import RankFailed, RunStopped
from models.errors import UserError

SHORTEST_SLACK, LONGEST_SLACK = 30.0, 120.0  # seconds that the watchdog has to find the rank to blame


@dataclass(frozen=True)
class World:
    """This process among all of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def largest(self, *values: int) -> list[int]:
        """Each value's maximum over the ranks: how all ranks reach the same decision."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in place; exact for integers."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank; small plain Python values only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def leaving(world: World) -> Iterator[None]:
    """Leave the process group at an end that all ranks come to: the block's own, or a stop.

    When one rank fails the group is left as it is. NCCL takes it apart with all ranks together and finishes what is
    queued first, so the rank that knows what went wrong would wait for those that wait for it, and say nothing.
    :func:`engine.cli.run` says it and ends the process.
    """
    try:
        yield
    except RunStopped:
        world.close()
        raise
    world.close()


def choose_device(wanted: str) -> torch.device:
    """The device of this rank.

    Raises:
        UserError: CUDA is asked for and not there, or this machine has more ranks than GPUs.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("train.device: cuda is asked for, but torch sees no GPU; valid here is cpu")
    gpus, ranks = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > gpus:  # said by all ranks, so that rank 0 is among them
        raise UserError(f"torchrun --nproc-per-node: {ranks} ranks for {gpus} GPUs; the nearest valid is {gpus}")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def join_world(device: str = "auto", timeout: float = 600.0) -> World:
    """Join the ranks that torchrun started, or be the only one.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        timeout: seconds to wait for the other ranks. A collective that some rank does not join ends in an error later
            than that, so that the watchdog, which knows the rank to blame, comes first.

    Raises:
        UserError: the device is not there.
        RankFailed: the other ranks have not come in time.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout)))
            # torchrun keeps one store over all restarts; without a prefix a rank can meet the address of a dead one.
            store = dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            wait = timedelta(seconds=timeout + min(LONGEST_SLACK, max(SHORTEST_SLACK, timeout)))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RankFailed(f"rank {rank}: the {size} ranks have not found each other: {reason}") from error
    return World(rank, size, chosen)
