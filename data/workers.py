"""Worker processes that make batches: torch's DataLoader, asked for whole batches by their keys.

It hands out keys to persistent workers and gives the batches back in their order. What is added here: an error that
names the worker and the place in the data, workers that leave the job's signals to the main process, and an end that
waits for nobody.
"""

import ctypes
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import util
from typing import Any

import numpy as np
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.batch import RawBatch
from data.dataset import BatchDataset
from data.errors import WorkerError
from data.sampler import BatchKey

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class KeyedBatches(Dataset):
    """A data set whose items are raw batches and whose indices are their keys.

    Pixels travel through memory that is shared once, in a ring of slots for each worker: a batch in use, and as many as
    are prefetched. Tensors of their own would need the worker's answer for each batch, and a stopped one gives none.
    """

    def __init__(self, dataset: BatchDataset, slots: tuple[int, int], shape: tuple[int, int, int, int]) -> None:
        self.dataset, self.shape, self.made = dataset, (*slots, *shape), 0
        self.memory = multiprocessing.RawArray("B", int(np.prod(self.shape)))

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (workers, slots, n, C, H, W)."""
        return np.frombuffer(self.memory, dtype=np.uint8).reshape(self.shape)

    def __getitem__(self, key: BatchKey) -> tuple[RawBatch, int, int]:
        info = get_worker_info()
        assert info is not None
        slot, self.made = self.made % self.shape[1], self.made + 1
        return self.dataset.make(key, self.pixels[info.id, slot]), info.id, slot


class WorkerPool:
    """Starts workers at the first use and keeps them for all epochs."""

    def __init__(
        self, dataset: BatchDataset, *, workers: int, prefetch: int, timeout: float, shape: tuple[int, int, int, int]
    ) -> None:
        """`shape` is the largest batch as uint8 (n, C, H, W); `timeout` is in seconds for one batch."""
        self.workers, self.timeout = workers, timeout
        self._keys: list[BatchKey] = []  # of the present run; the sampler is this list
        self._batches = KeyedBatches(dataset, (workers, prefetch + 1), shape)
        self._loader = DataLoader(
            self._batches,
            sampler=self._keys,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch,
            persistent_workers=True,
            timeout=timeout,
            worker_init_fn=_prepare,
            generator=torch.Generator(),  # else each run would draw from the global generator
        )
        self._iterator: Any = None
        self._finalizer: Any = None

    @property
    def pids(self) -> list[int]:
        """The process numbers of the running workers."""
        return [] if self._iterator is None else [process.pid for process in self._iterator._workers]

    def run(self, keys: Iterable[BatchKey]) -> Iterator[RawBatch]:
        """Yield the batch of each key in order. The pixels are valid until the next one is asked for.

        Raises WorkerError naming the worker that died or gave no batch in time.
        """
        self._keys[:] = keys
        done = 0
        try:
            self._iterator = iter(self._loader)
            if self._finalizer is None:
                # before multiprocessing's own end, which sends a SIGTERM that workers ignore
                self._finalizer = util.Finalize(self, _end, args=(self._iterator,), exitpriority=10)
            for done in range(len(self._keys)):  # noqa: B007  says where in the data a worker fails
                raw, worker, slot = next(self._iterator)
                raw.pixels = torch.from_numpy(self._batches.pixels[worker, slot, : len(raw.key.indices)])
                yield raw
        except GeneratorExit:
            raise
        except Exception as error:  # whatever a worker meets arrives here, also its death
            raise self._failure(done, error) from None

    def close(self) -> None:
        """End all workers."""
        if self._finalizer is not None:
            self._finalizer()
        self._iterator = self._finalizer = self._loader._iterator = None

    def _failure(self, done: int, error: Exception) -> WorkerError:
        """Name the worker: the dead one, else the one whose turn it was; keys are dealt out in turn."""
        processes = [] if self._iterator is None else self._iterator._workers
        for process in processes:
            process.join(0.2)
        dead = [number for number, process in enumerate(processes) if process.exitcode is not None]
        worker = dead[0] if dead else done % self.workers
        pid = processes[worker].pid if processes else 0
        what = _death(processes[worker].exitcode) if dead else self._complaint(error)
        where = f" at epoch {self._keys[done].epoch}, position {self._keys[done].position}" if self._keys else ""
        self.close()
        return WorkerError(f"loader worker {worker} (pid {pid}) {what}{where}")

    def _complaint(self, error: Exception) -> str:
        if "DataLoader timed out" in str(error):
            return f"gave no batch for {self.timeout:g} s (data.timeout)"
        return f"failed: {str(error).strip().splitlines()[-1]}"


def _death(code: int) -> str:
    if code >= 0:
        return f"died: exit status {code}"
    return "died: " + signal.Signals(-code).name + (" (is /dev/shm full?)" if -code == signal.SIGBUS else "")


def _end(iterator: Any) -> None:
    """Kill the workers: they have nothing to save, and one that hangs is not waited for."""
    if iterator._worker_pids_set:  # their end is no longer a failure
        torch.utils.data._utils.signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    for process in iterator._workers:
        process.kill()
        process.join()
    iterator._shutdown = True  # its own way would wait for locks that a killed worker may hold
    for queue in iterator._index_queues:
        queue.cancel_join_thread()
        queue.close()


def _prepare(number: int) -> None:
    """In a worker, before its first batch."""
    end_with_parent()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)  # sent to the whole job; the main process decides
    _keep_freed_memory()


def end_with_parent() -> None:
    """Let Linux end this process when the one that started it ends, however it does; elsewhere nothing happens.

    torch's workers look for their parent, but not while they wait for a lock that it held when it was killed.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory: each image needs the same buffers, and fresh pages cost a tenth of the time.

    A worker's memory stays at its own peak, some tens of MB. Without glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            library.mallopt(option, 1 << 30)
