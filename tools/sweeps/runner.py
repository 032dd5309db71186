"""Runs the jobs of a sweep: each in a process of its own, several at a time, finished ones never again."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import EXIT_FAILURE, EXIT_STOPPED
from engine.files import write_atomic
from models.errors import UserError
from tools.sweeps.jobs import Job

Environment = dict[str, str]
Say = Callable[[str], None]
USAGE = "usage.json"


def slots(parallel: int, gpus: list[str]) -> list[Environment]:
    """The environments in which jobs run side by side: one for each GPU, or an equal share of the CPU's cores.

    Whoever says how many threads there shall be (OMP_NUM_THREADS) is obeyed.
    """
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // parallel))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * parallel


class Sweep:
    """Takes jobs from a list until none is left; a job waits for the one that it starts from.

    Args:
        environments: one for each job that may run at a time.
    """

    def __init__(self, jobs: list[Job], environments: list[Environment], say: Say) -> None:
        self._jobs, self._environments, self._say = list(jobs), environments, say
        self._lock = threading.Condition()
        self._done: set[Path] = set()
        self._running: dict[Path, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self.failed: list[tuple[Job, int]] = []

    def run(self) -> bool:
        """Run everything; False when a signal stopped it."""
        total = len(self._jobs)
        finished = [job for job in self._jobs if job.is_finished()]
        self._done = {job.output for job in finished}
        self._jobs = [job for job in self._jobs if job.output not in self._done]
        self._say(f"{total} runs, {len(finished)} of them finished before")
        old = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        workers = [threading.Thread(target=self._work, args=(env,)) for env in self._environments]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        return not self._stopping

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping = True
        for process in list(self._running.values()):
            process.send_signal(signal.SIGTERM)

    def _work(self, environment: Environment) -> None:
        while (job := self._next()) is not None:
            try:
                status = self._train_one(job, environment)
            except (OSError, UserError) as error:  # a folder, a log or a record that cannot be written
                self._say(f"{job.run.name}, seed {job.seed}: FAILED: {error}")
                status = EXIT_FAILURE
            with self._lock:
                self._running.pop(job.output, None)
                if status == 0:
                    self._done.add(job.output)
                elif not self._stopping:
                    self.failed.append((job, status))
                self._lock.notify_all()

    def _next(self) -> Job | None:
        """The first job whose start weights exist; waits for them, and drops jobs whose start has failed."""
        with self._lock:
            while not self._stopping:
                lost = {job.output for job, _ in self.failed}
                for job in [job for job in self._jobs if start_of(job) in lost]:
                    self._jobs.remove(job)
                    self.failed.append((job, 1))
                ready = next((job for job in self._jobs if start_of(job) in (None, *self._done)), None)
                if ready is not None:
                    self._jobs.remove(ready)
                    return ready
                if not self._jobs:
                    return None
                self._lock.wait(timeout=1.0)
            return None

    def _train_one(self, job: Job, environment: Environment) -> int:
        job.prepare()
        began = time.monotonic()
        with (job.output / "sweep.log").open("ab") as log:
            # A session of its own, so that Ctrl-C reaches it once, from us.
            process = subprocess.Popen(
                job.command(), stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
            )
            with self._lock:
                self._running[job.output] = process
            if self._stopping:
                process.send_signal(signal.SIGTERM)
            _, code, usage = os.wait4(process.pid, 0)
        process.returncode = status = os.waitstatus_to_exitcode(code)
        add_usage(job.output, usage.ru_utime + usage.ru_stime, time.monotonic() - began)
        # The dense libraries know no status of their own for a run that was told to stop.
        stopped = status == EXIT_STOPPED or (status != 0 and self._stopping)
        what = "done" if status == 0 else "stopped" if stopped else f"FAILED (status {status}), see {log.name}"
        self._say(f"{job.run.name}, seed {job.seed}: {what} after {time.monotonic() - began:.0f} s")
        return status


def add_usage(folder: Path, cpu_seconds: float, wall_seconds: float) -> None:
    """Add to what a job has used so far, over all its starts, in `usage.json` of its folder."""
    path = folder / USAGE
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cpu_seconds": 0, "wall_seconds": 0}
    after = {
        "cpu_seconds": before["cpu_seconds"] + cpu_seconds,
        "wall_seconds": before["wall_seconds"] + wall_seconds,
    }
    write_atomic(path, json.dumps(after).encode())


def start_of(job: Job) -> Path | None:
    """The output folder of the run that a job starts from."""
    return job.start and job.start.parent


def check_configs(jobs: list[Job]) -> None:
    """Resolve every config before anything starts.

    Raises:
        UserError: the name of the run and what is wrong with its config.
    """
    for job in jobs:
        try:
            job.check()
        except UserError as error:
            raise UserError(f"runs: {job.run.name}: {error}") from None
