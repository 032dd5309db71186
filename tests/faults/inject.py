"""Faults inside a run's own process, at an exact place that a signal from outside would hit only by luck."""

import errno
import json
import os
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Injection:
    """A fault by name, the rank that it befalls (None: all), and its arguments."""

    name: str
    rank: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def commit(fault: Injection) -> None:
    """Arrange for a fault in this process."""
    if fault.rank is None or fault.rank == int(os.environ.get("RANK", "0")):
        FAULTS[fault.name](**fault.arguments)


def kill_in_write(write: int, stage: str) -> None:
    """Die by SIGKILL in the n-th atomic write (counted from 1) to a checkpoint folder.

    Stages: ``half`` (half of the bytes are on the disk), ``flush`` (all bytes, not flushed), ``rename`` (before the
    rename), ``renamed`` (after it).
    """
    import engine.checkpoint as checkpoint

    written = 0
    original = checkpoint.write_atomic

    def write_atomic(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written != write:
            return original(path, data)
        if stage == "renamed":
            original(path, data)
        else:
            with path.with_name(f".{path.name}.{os.getpid()}.tmp").open("wb") as file:
                file.write(data[: len(data) // 2] if stage == "half" else data)
                file.flush()
                if stage == "rename":
                    os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_atomic = write_atomic  # type: ignore[assignment]


def refuse_writes(first: int, last: int, error: str) -> None:
    """Let the atomic writes numbered first to last fail with an errno (ENOSPC, EACCES) after half of the bytes."""
    import engine.files as files

    written = 0
    original = os.fsync

    def fsync(handle: int) -> None:
        nonlocal written
        written += 1
        if first <= written <= last:
            code = getattr(errno, error)
            raise OSError(code, os.strerror(code))
        original(handle)

    files.os.fsync = fsync  # type: ignore[assignment]


def poison_images(first: int, last: int) -> None:
    """Make one pixel NaN in the batches of the steps numbered first to last (from 0)."""

    def change(number: int, batch: Any) -> Any:
        if first <= number <= last:
            batch.images[0, 0, 0, 0] = float("nan")
        return batch

    _change_batches(change)


def record_samples(folder: str) -> None:
    """Write down the step, position, indices and check sums of every batch that a rank trains on."""
    path = Path(folder) / f"{time.time_ns()}-{os.getpid()}"

    def change(number: int, batch: Any) -> Any:
        sums = [zlib.crc32(image.numpy().tobytes()) for image in batch.images]
        samples = list(zip(batch.indices.tolist(), sums, strict=True))
        with path.open("a") as file:
            file.write(json.dumps([number, batch.position, samples]) + "\n")
        return batch

    _change_batches(change)


def stall_loader(step: int, seconds: float) -> None:
    """Let the loader hang before the batch of a step."""

    def change(number: int, batch: Any) -> Any:
        if number == step:
            time.sleep(seconds)
        return batch

    _change_batches(change)


def fail_loader(step: int) -> None:
    """Let the loader raise at a step, as for a disk that goes away."""

    def change(number: int, batch: Any) -> Any:
        if number == step:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return batch

    _change_batches(change)


def infinite_layer(name: str, first: int) -> None:
    """Let a module's output become infinite from a step on."""
    import torch

    import engine.trainer as trainer

    original = trainer.train_step

    def train_step(state: Any, *arguments: Any) -> Any:
        if state.progress.step == first:
            state.model.get_submodule(name).register_forward_hook(lambda m, i, output: output * torch.inf)
        return original(state, *arguments)

    trainer.train_step = train_step


def slow_evaluation(seconds: float) -> None:
    """Let each batch of an evaluation take longer, so that a signal can hit it."""
    import engine.evaluate as evaluate

    original = evaluate._count

    def count(*arguments: Any) -> Any:
        time.sleep(seconds)
        return original(*arguments)

    evaluate._count = count


def slow_start(seconds: float) -> None:
    """Let building the model take longer, so that a signal can hit the start-up."""
    import engine.trainer as trainer

    original = trainer.plain_model

    def plain_model(config: Any) -> Any:
        print("building the model", flush=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        return original(config)

    trainer.plain_model = plain_model


def count_graphs(path: str) -> None:
    """Compile to nothing, and write a line for every graph: what it is traced for, training or evaluation."""
    import torch

    original = torch.nn.Module.compile

    def backend(graph: Any, examples: Any) -> Any:
        with Path(path).open("a") as file:
            file.write("training\n" if torch.is_grad_enabled() else "evaluation\n")
        return graph.forward

    torch.nn.Module.compile = lambda self: original(self, backend=backend)  # type: ignore[method-assign]


def _change_batches(change: Callable[[int, Any], Any]) -> None:
    import data

    original = data.TrainLoader.epoch

    def epoch(self: Any, number: int, start: int = 0) -> Any:
        for place, batch in enumerate(original(self, number, start), start):
            yield change(number * len(self) + place, batch)

    data.TrainLoader.epoch = epoch  # type: ignore[method-assign]


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        *(kill_in_write, refuse_writes, poison_images, stall_loader, fail_loader),
        *(record_samples, infinite_layer, slow_evaluation, slow_start, count_graphs),
    )
}
