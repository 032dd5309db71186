"""Files that would do harm, and two runs in one folder."""

import itertools
import os
import pickle
import random
import signal
from pathlib import Path
from typing import Any

import torch

from engine.errors import EXIT_BAD_INPUT
from tests.faults.small_run import SmallRuns
from tests.faults.trials import Outcome, fault


class _Payload:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def payloads(marker: Path) -> list[Any]:
    """Twenty objects that would create the file ``marker`` if they were unpickled without care."""
    touch = f"open({str(marker)!r}, 'w').close()"
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (os.system, (f"touch {marker}",)),
        (os.popen, (f"touch {marker}",)),
        (eval, (touch,)),
        (exec, (touch,)),
        (open, (str(marker), "w")),
        (os.mkdir, (str(marker),)),
        (Path.touch, (marker,)),
        (getattr, (_Payload(os.system, (f"touch {marker}",)), "real")),
        (map, (_Payload(eval, (touch,)), [])),
        (os.open, (str(marker), os.O_CREAT)),
    ]
    direct = [_Payload(function, arguments) for function, arguments in calls]
    hidden = [{"model": {"head.weight": torch.zeros(4, 64), "extra": payload}} for payload in direct]
    return [*direct, *hidden]


@fault("malicious pickle as a checkpoint", f"exit {EXIT_BAD_INPUT} with one line; nothing of it runs", full=20, short=4)
def pickles(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Written by torch.save and by pickle in turn, under the names .pth and .safetensors."""
    marker = small_runs.root / "payload-ran"
    writers = itertools.cycle([torch.save, _plain_pickle])
    for number, payload in zip(range(trials), itertools.cycle(payloads(marker)), strict=False):
        path = small_runs.root / f"evil{number}{'.safetensors' if number % 7 == 6 else '.pth'}"
        next(writers)(payload, path)
        (ended,) = small_runs.start(small_runs.folder(), [f"train.init_checkpoint={path}"]).wait()
        good = ended.status == EXIT_BAD_INPUT and "Traceback" not in ended.text and not marker.exists()
        good = good and len(ended.text.strip().splitlines()) == 1 and str(path) in ended.text
        outcome.count(good, f"payload {number}: status {ended.status}, ran {marker.exists()}: {ended.text[-300:]}")


def _plain_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@fault(
    "a second run in the same output folder",
    f"refused with exit {EXIT_BAD_INPUT} while the first one lives; the first is not disturbed",
    full=4,
    short=1,
)
def second_run(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The second starts in the middle of the first, which is held there: a fast machine would finish it meanwhile."""
    for _ in range(trials):
        output = small_runs.folder()
        first = small_runs.start(output, ["train.epochs=12"])
        first.wait_for("step 2 ")
        os.kill(first.pid(), signal.SIGSTOP)
        try:
            (second,) = small_runs.start(output, ["train.epochs=12"]).wait()
        finally:
            os.kill(first.pid(), signal.SIGCONT)
        refused = second.status == EXIT_BAD_INPUT and f"in use by process {first.pid()}" in second.last_line
        status = first.wait()[0].status
        outcome.count(refused and status == 0, f"second {second.status}: {second.last_line}; first {status}")
