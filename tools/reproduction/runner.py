"""Runs evaluations one after another, says how long it takes, and keeps what each one found."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from engine.errors import EXIT_STOPPED, RunStopped
from engine.logs import duration
from models.download import fetch
from models.errors import UserError
from tools.reproduction.evaluations import Evaluation

Say = Callable[[str], None]
PROGRESS = re.compile(r"\[\s*(\d+)/(\d+)\]")
LOOK_EVERY, SAY_EVERY = 0.2, 60.0  # seconds
TAIL = 16384  # bytes of a log that hold its last lines


class EvaluationFailed(Exception):
    """One evaluation cannot be had; the others can."""


@dataclass
class Clock:
    """How long the evaluations that are left will take, by what those of the same task took for each multiply-add."""

    pending: list[Evaluation]
    _rates: dict[str, float] = field(default_factory=dict)

    def took(self, evaluation: Evaluation, seconds: float, done: float = 1.0) -> None:
        """Note the time of an evaluation, or of the share ``done`` of one that runs."""
        self._rates[evaluation.release.task] = seconds / (done * evaluation.work)

    def left(self, running: float = 0.0) -> str:
        """What is left, in words; ``running`` seconds are those of the evaluation that runs."""
        known = [each for each in self.pending if each.release.task in self._rates]
        seconds = running + sum(self._rates[each.release.task] * each.work for each in known)
        unknown = len(self.pending) - len(known)
        parts = [f"about {duration(seconds)} left"] if seconds or not unknown else []
        parts += [f"{unknown} to come whose speed is not known yet"] if unknown else []
        return " and ".join(parts)


def run_all(
    evaluations: list[Evaluation], processes: int, say: Say
) -> Iterator[tuple[Evaluation, dict[str, Any] | EvaluationFailed]]:
    """Each evaluation with its result or its failure: first what was finished before, then one after another.

    Raises:
        RunStopped: a signal came; what was finished is kept.
    """
    kept = {each.name: result for each in evaluations if (result := each.kept()) is not None}
    clock = Clock([each for each in evaluations if each.name not in kept])
    say(f"{len(evaluations)} evaluations, {len(kept)} of them finished before")
    yield from ((each, kept[each.name]) for each in evaluations if each.name in kept)
    for number in range(len(kept) + 1, len(evaluations) + 1):
        evaluation = clock.pending.pop(0)
        where = f"[{number}/{len(evaluations)}] {evaluation.title}"
        began = time.monotonic()
        try:
            line = evaluate(evaluation, processes, clock, partial(_say_where, say, where))
        except EvaluationFailed as error:
            say(f"{where}: FAILED: {error}")
            yield evaluation, error
            continue
        seconds = time.monotonic() - began
        say(f"{where}: done in {duration(seconds)}; {clock.left()}")
        yield evaluation, evaluation.keep(line, seconds)


def _say_where(say: Say, where: str, text: str) -> None:
    say(f"{where}: {text}")


def evaluate(evaluation: Evaluation, processes: int, clock: Clock, say: Say) -> dict[str, Any]:
    """Fetch the weights, run the command, and return the JSON line that it printed last.

    Raises:
        EvaluationFailed: the weights cannot be had, or the command failed.
        RunStopped: a signal came.
    """
    try:
        weights = fetch(evaluation.release, progress=sys.stderr.isatty())
        command = evaluation.command(weights, processes)
    except UserError as error:
        raise EvaluationFailed(str(error)) from None
    began = time.monotonic()
    with evaluation.log.open("wb") as log, _child(command, log) as process:
        said = began
        while process.poll() is None:
            time.sleep(LOOK_EVERY)
            now = time.monotonic()
            done = progress(evaluation.log) if now - said > SAY_EVERY else None
            if done is not None:
                said = now
                clock.took(evaluation, now - began, done)
                say(f"{100 * done:.0f}%, {clock.left((now - began) / done * (1 - done))}")
        status = process.returncode
    if status == EXIT_STOPPED:
        raise RunStopped("stopped; the same command goes on with what is left")
    line = last_json(evaluation.log)
    if status != 0 or line is None:
        raise EvaluationFailed(f"{_what_it_said(evaluation.log)} (status {status}, all of it in {evaluation.log})")
    clock.took(evaluation, time.monotonic() - began)
    return line


@contextmanager
def _child(command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a group of its own, which ends with this process where that is asked to stop."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise RunStopped("stopped; the same command goes on with what is left")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it has nothing to save
            process.wait()


def progress(log: Path) -> float | None:
    """The share that is done by the last ``[done/total]`` of a log; None before the first."""
    found = PROGRESS.findall(_tail(log))
    if not found or int(found[-1][0]) == 0:
        return None
    return min(1.0, int(found[-1][0]) / int(found[-1][1]))


def last_json(log: Path) -> dict[str, Any] | None:
    """The last line of a log that is the JSON of an evaluation."""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if line.startswith("{"):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "checkpoint_sha256" in values:
                return values
    return None


def _what_it_said(log: Path) -> str:
    """The line of an error of ours, which torchrun puts its own report under, else the last line."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return [*lines[-1:], *errors][-1].removeprefix("error: ")[:300] if lines else "it said nothing"


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode("utf-8", errors="replace")
