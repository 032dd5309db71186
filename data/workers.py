"""Worker processes that make batches, and the watch over them.

Each worker has a pipe of its own, so one that is killed can block nobody, and its death is seen at once.
Pixels travel through shared memory that is allocated once. Batches come back in the order of their keys.
"""

import ctypes
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection, util
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from data.batch import RawBatch
from data.dataset import BatchDataset
from data.errors import WorkerError
from data.sampler import BatchKey

_POLL_SECONDS = 5.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)


class WorkerPool:
    """Starts workers at the first use and keeps them for all epochs."""

    def __init__(
        self, dataset: BatchDataset, *, workers: int, prefetch: int, timeout: float, shape: tuple[int, int, int, int]
    ) -> None:
        """`shape` is the largest batch as uint8 (n, C, H, W); `timeout` is in seconds for one batch."""
        self.dataset, self.workers, self.prefetch, self.timeout, self.shape = dataset, workers, prefetch, timeout, shape
        self._context: Any = multiprocessing.get_context()
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []
        self._slots: np.ndarray = np.empty(0, np.uint8)
        self._waiting: deque[tuple[int, int, BatchKey]] = deque()  # (worker, slot, key), oldest first
        self._finalizer: Any = None

    @property
    def pids(self) -> list[int]:
        """The process numbers of the running workers."""
        return [process.pid for process in self._processes]

    def run(self, keys: Iterable[BatchKey]) -> Iterator[RawBatch]:
        """Yield the batch of each key in order. The pixels are valid until the next one is asked for.

        Raises WorkerError naming the worker that died or gave no batch in time.
        """
        if not self._processes:
            self._start()
        while self._waiting:  # an earlier run was left before its end
            self._receive()
        remaining = enumerate(keys)
        free = [(worker, slot) for slot in range(self.prefetch) for worker in range(self.workers)]
        for place, (_, key) in zip(free, remaining, strict=False):
            self._send(*place, key)
        while self._waiting:
            worker, slot, _ = self._waiting[0]
            yield self._receive()
            following = next(remaining, None)
            if following is not None:
                self._send(worker, slot, following[1])

    def close(self) -> None:
        """End all workers."""
        if self._finalizer is not None:
            self._finalizer()
        self._processes, self._pipes, self._finalizer = [], [], None
        self._waiting.clear()

    def _start(self) -> None:
        size = int(np.prod(self.shape))
        memory = self._context.RawArray("B", self.workers * self.prefetch * size)
        self._slots = np.frombuffer(memory, dtype=np.uint8).reshape(self.workers, self.prefetch, *self.shape)
        inherits = self._context.get_start_method() == "fork"
        for number in range(self.workers):
            ours, theirs = self._context.Pipe()
            self._pipes.append(ours)
            arguments = (theirs, self.dataset, memory, number, self._slots.shape, self._pipes if inherits else [])
            process = self._context.Process(target=_work, args=arguments, daemon=True, name=f"loader worker {number}")
            process.start()
            theirs.close()
            self._processes.append(process)
        # before multiprocessing's own end, which sends a SIGTERM that workers ignore
        self._finalizer = util.Finalize(self, _end, args=(self._processes, self._pipes), exitpriority=10)

    def _send(self, worker: int, slot: int, key: BatchKey) -> None:
        self._waiting.append((worker, slot, key))
        try:
            self._pipes[worker].send((slot, key))
        except OSError:
            raise self._death(worker) from None

    def _receive(self) -> RawBatch:
        worker, slot, key = self._waiting[0]
        pipe = self._pipes[worker]
        ready = connection.wait([pipe, *(process.sentinel for process in self._processes)], self.timeout)
        if not ready:
            raise self._failure(worker, f"gave no batch for {self.timeout:g} s (data.timeout)")
        try:
            if pipe not in ready:
                raise EOFError
            raw: RawBatch = pipe.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        self._waiting.popleft()
        raw.pixels = torch.from_numpy(self._slots[worker, slot, : len(key.indices)])
        return raw

    def _death(self, worker: int) -> WorkerError:
        """Describe the worker that died; the one that was asked may only have noticed it."""
        self._processes[worker].join(1)
        dead = [number for number, process in enumerate(self._processes) if process.exitcode is not None]
        worker = worker if worker in dead or not dead else dead[0]
        code = self._processes[worker].exitcode
        reason = f"exit status {code}"
        if code is not None and code < 0:
            reason = signal.Signals(-code).name + (" (is /dev/shm full?)" if -code == signal.SIGBUS else "")
        return self._failure(worker, f"died: {reason}")

    def _failure(self, worker: int, what: str) -> WorkerError:
        pid = self._processes[worker].pid
        task = next((key for number, _, key in self._waiting if number == worker), None)
        where = "" if task is None else f" at epoch {task.epoch}, position {task.position}"
        self.close()
        return WorkerError(f"loader worker {worker} (pid {pid}) {what}{where}")


def _end(processes: list, pipes: list) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.kill()
        process.join()


def _work(
    pipe: connection.Connection,
    dataset: BatchDataset,
    memory: Any,
    number: int,
    shape: tuple[int, ...],
    inherited: list[connection.Connection],
) -> None:
    """Make batches until the main process closes the pipe or is gone."""
    for other in inherited:
        other.close()  # a copy here would hide the main process's end from other workers
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)  # sent to the whole job; the main process decides
    torch.set_num_threads(1)
    keep_freed_memory()
    slots = np.frombuffer(memory, dtype=np.uint8).reshape(shape)[number]
    parent = os.getppid()
    try:
        while True:
            while not pipe.poll(_POLL_SECONDS):
                if os.getppid() != parent:
                    return
            slot, key = pipe.recv()
            pipe.send(dataset.make(key, slots[slot]))
    except (EOFError, ConnectionError):
        return


def keep_freed_memory() -> None:
    """Let the C library keep freed memory: each image needs the same buffers, and fresh pages cost a tenth of the time.

    A worker's memory stays at its own peak, some tens of MB. Without glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            library.mallopt(option, 1 << 30)
