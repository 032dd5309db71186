"""Small runs that start in a moment, so that they can be broken by the hundred.

A run is a process of its own, forked from a server that has loaded torch. It goes through the same code as
``train_cls.py``: config file, :func:`engine.run.train`, exit status.
"""

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from engine.weights import file_hash
from tests.faults import inject

CLASSES, SIZE, TRAIN, VAL = 4, 32, 40, 13
CONFIG: dict[str, Any] = {
    "model": {
        "name": "dw_conv_nano",
        "num_classes": CLASSES,
        "img_size": SIZE,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "drop_path_rate": 0.2,
    },
    "data": {"workers": 0, "mixup": {"group": 4}},
    "train": {
        "epochs": 3,
        "batch_size": 12,
        "warmup_epochs": 1,
        "ema_decay": 0.9,
        "save_every": 2,
        "log_every": 1,
        "threads": 1,
        "bn_batch": None,
        "tensorboard": False,
        "device": "cpu",
    },
    "eval": {"batch_size": 4},
}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["engine.run", "engine.evaluate", "tests.faults.small_run"])


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (negative: the signal that killed it; None: it still ran) and what it said."""

    status: int | None
    text: str

    @property
    def last_line(self) -> str:
        """The last line that it said."""
        return (self.text.strip().splitlines() or [""])[-1]


class Processes:
    """The ranks of one run."""

    def __init__(self, processes: list[Any], logs: list[Path]) -> None:
        self._processes, self._logs = processes, logs
        self.began = time.monotonic()

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some ranks, by default to all."""
        for rank in range(len(self._processes)) if ranks is None else ranks:
            if self._processes[rank].is_alive():
                os.kill(self._processes[rank].pid, number)

    def pid(self, rank: int = 0) -> int:
        """The process of a rank."""
        return self._processes[rank].pid

    def said(self, rank: int = 0) -> str:
        """What a rank has said so far."""
        return self._logs[rank].read_text(errors="replace") if self._logs[rank].exists() else ""

    def wait_for(self, text: str, rank: int = 0, timeout: float = 60.0) -> bool:
        """Wait until a rank has said ``text``; False when it ended or the time was up first."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            alive = self._processes[rank].is_alive()
            if text in self.said(rank):
                return True
            if not alive:
                return False
            time.sleep(0.002)
        return False

    def wait_for_end(self, rank: int, timeout: float) -> None:
        """Wait until a rank has ended, or for ``timeout`` seconds."""
        self._processes[rank].join(timeout)

    def wait(self, timeout: float = 120.0) -> list[Ended]:
        """Wait for all ranks to end; those that have not by then are killed and have the status None."""
        until = time.monotonic() + timeout
        statuses: list[int | None] = []
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            statuses.append(process.exitcode)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGUSR2)  # it writes down where it hangs
                time.sleep(0.5)
                os.kill(process.pid, signal.SIGKILL)
                process.join()
        return [Ended(status, self.said(rank)) for rank, status in enumerate(statuses)]


class SmallRuns:
    """A folder with a small data set and the runs that are trained on it."""

    def __init__(self, root: Path) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the server starts: its children inherit it
        self.root = root
        _draw_images(root / "images")
        config = CONFIG | {"data": CONFIG["data"] | {"root": str(root / "images")}}
        self.config = root / "run.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self._references: dict[tuple[Any, ...], str] = {}
        self._runs = 0

    def folder(self) -> Path:
        """The output folder of a new run."""
        self._runs += 1
        return self.root / "runs" / f"run{self._runs:04d}"

    def start(
        self, output: Path, overrides: Sequence[str] = (), ranks: int = 1, faults: Sequence[inject.Injection] = ()
    ) -> Processes:
        """Start a run, or go on with it, and return at once."""
        port = _free_port()
        processes, logs = [], []
        for rank in range(ranks):
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = {key: str(value) for key, value in world.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            log = output.with_name(f"{output.name}.rank{rank}.txt")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            arguments = (environment, log, self.config, [f"output={output}", *overrides], list(faults))
            process = _SERVER.Process(target=_train, args=arguments)  # type: ignore[attr-defined]
            process.start()
            processes.append(process)
            logs.append(log)
        return Processes(processes, logs)

    def finish(self, output: Path, overrides: Sequence[str] = (), ranks: int = 1) -> str:
        """Start a run, or go on with it, wait for its end and return the hash of its last weights.

        Raises:
            RuntimeError: it did not end well.
        """
        ended = self.start(output, overrides, ranks).wait()
        if any(e.status != 0 for e in ended):
            raise RuntimeError("\n".join(f"rank {r}, status {e.status}: {e.text}" for r, e in enumerate(ended)))
        return file_hash(output / "last.safetensors")

    def reference(self, overrides: Sequence[str] = (), ranks: int = 1) -> str:
        """The hash of the last weights of the run that nothing happens to."""
        key = (tuple(overrides), ranks)
        if key not in self._references:
            self._references[key] = self.finish(self.folder(), overrides, ranks)
        return self._references[key]


def _train(
    environment: dict[str, str], log: Path, config: Path, overrides: list[str], faults: list[inject.Injection]
) -> None:
    """In the new process: be a rank of ``train_cls.py``."""
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # loader workers are this process's own children
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.register(signal.SIGUSR2)
    for fault in faults:
        inject.commit(fault)
    from engine import cli, signals

    signals.watch()

    def main() -> None:
        from engine.config import load_config
        from engine.run import train

        train(load_config(config, overrides))

    status = cli.run(main)
    sys.stderr.flush()
    os._exit(status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _draw_images(root: Path) -> None:
    """Noise with a bright stripe whose place is the class."""
    draw = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            label = number % CLASSES
            pixels = draw.integers(0, 120, (SIZE, SIZE, 3))
            pixels[:, label * 8 : label * 8 + 8] += 100
            path = root / split / f"class{label}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
