"""What test_dense_resume.py starts: three trainings, forked from one process that has the libraries, since importing
them takes longer than a run. One is whole; one is killed after its first checkpoint; one goes on with it.

    python killed_run.py TASK WHOLE BROKEN ARGUMENT ...
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from engine import cli
from engine.dense.launch import train


def forked(run: Callable[[], int]) -> int:
    """The number of a process that ends with the status of ``run``."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        os._exit(run())
    return process


def killed(process: int, sign: str) -> None:
    """Wait for the file that is a sign of a checkpoint, then kill."""
    limit = time.monotonic() + 120
    while not Path(sign).exists() and os.waitpid(process, os.WNOHANG)[0] == 0 and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(process, 9)  # ProcessLookupError: it ended before it could be killed
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -9


def main(task: str, whole: str, broken: str, *arguments: str) -> None:
    def run(work: str, *more: str) -> int:
        return cli.run(partial(train, task, [arguments[0], "--work-dir", work, *more, *arguments[1:]]))

    assert os.waitpid(forked(lambda: run(whole)), 0)[1] == 0
    killed(forked(lambda: run(broken)), f"{broken}/last_checkpoint")
    assert os.waitpid(forked(lambda: run(broken, "--resume")), 0)[1] == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
