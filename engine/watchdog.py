"""A thread on each rank that ends a run which no longer moves, and names the rank that it waits for.

Every rank tells the others, through a small store on rank 0, how far it has come. A collective that waits for a lost
rank cannot be interrupted, so the end is ``os._exit`` after the report.
"""

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Self

import torch.distributed as dist

from engine.distributed import World
from engine.errors import EXIT_FAILURE

LOG = logging.getLogger(__name__)


class Watchdog:
    """Watches, as a context, that this rank's main thread makes progress.

    Args:
        world: the ranks of the run.
        timeout: seconds without progress after which the run is ended.
    """

    def __init__(self, world: World, timeout: float) -> None:
        self._world = world
        self._timeout = timeout
        self._tick = min(5.0, timeout / 8)
        self._moves = 0
        self._where = "start-up"
        self._done = threading.Event()
        self._store = _open_store(world) if world.size > 1 else None
        # Publishing may block when rank 0 hangs, so the thread that watches the clock does not do it.
        for work in (self._watch, self._publish):
            threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True).start()

    def at(self, where: str) -> None:
        """Say what the main thread does now; every call counts as progress and must happen on all ranks alike."""
        self._where = where
        self._moves += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching: the process may go on, and must not be ended for standing still."""
        self._done.set()

    def _watch(self) -> None:
        seen, since = -1, time.monotonic()
        while not self._done.wait(self._tick):
            if self._moves != seen:
                seen, since = self._moves, time.monotonic()
            if time.monotonic() - since > self._timeout:
                self._end()

    def _publish(self) -> None:
        pulse = 0
        while self._store is not None and not self._done.wait(self._tick):
            pulse += 1
            beat = json.dumps([self._moves, pulse, self._where, socket.gethostname(), os.getpid()])
            try:
                self._store.set(f"beat/{self._world.rank}", beat)
            except RuntimeError:
                return  # rank 0 has gone; the others say so if they then stall

    def _end(self) -> None:
        report = f"no progress for {self._timeout:g} s (train.timeout) at {self._where}"
        if self._store is not None:
            report += "; " + self._blame()
        LOG.error("STALLED: rank %d: %s", self._world.rank, report)
        print(f"error: rank {self._world.rank}: {report}", file=sys.stderr, flush=True)  # noqa: T201
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        os._exit(EXIT_FAILURE)

    def _blame(self) -> str:
        """Which rank holds the others up: one that gives no sign of life, else the one that has come least far."""
        first = self._beats()
        time.sleep(3 * self._tick)
        second = self._beats()
        if first is None or second is None:
            return "no sign of life from rank 0"
        silent = [r for r in range(self._world.size) if r not in second or second[r] == first.get(r)]
        if silent:
            return "no sign of life from " + ", ".join(_name(r, second.get(r)) for r in silent)
        least = min(beat[0] for beat in second.values())
        behind = [r for r, beat in second.items() if beat[0] == least]
        if len(behind) == self._world.size:
            return "all ranks are alive and have come equally far"
        return "waiting for " + ", ".join(_name(r, second[r]) for r in behind)

    def _beats(self) -> dict[int, list] | None:
        """The last word of each rank that has said one; None when rank 0, which keeps them, does not answer."""
        found: dict[int, list] = {}

        def read() -> None:
            assert self._store is not None
            for rank in range(self._world.size):
                if self._store.check([f"beat/{rank}"]):
                    found[rank] = json.loads(self._store.get(f"beat/{rank}"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(3 * self._tick)
        return None if reader.is_alive() else found


def _name(rank: int, beat: list | None) -> str:
    if beat is None:
        return f"rank {rank}"
    return f"rank {rank} (at {beat[2]}, process {beat[4]} on {beat[3]})"


def _open_store(world: World) -> dist.TCPStore:
    """A store of the watchdogs alone, on rank 0: the process group's own may be busy when it is needed."""
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    wait = timedelta(seconds=60)
    if world.is_main:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=wait)
        world.gather(store.port)
        return store
    port = world.gather(None)[0]
    return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
