"""Signals that ask a run to stop: in training, evaluation and start-up."""

import random
import signal
import time

from engine.errors import EXIT_FAILURE, EXIT_STOPPED
from tests.faults.inject import Injection
from tests.faults.small_run import Ended, SmallRuns
from tests.faults.trials import Outcome, fault

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LIMIT = 20.0  # seconds from the signal to the end: a step here takes hundredths, a crowded machine needs slack


@fault(
    "SIGTERM or SIGUSR1 in training",
    f"all ranks save and exit {EXIT_STOPPED} within a step and a save; same hash afterwards",
    full=20,
    short=2,
)
def in_training(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """One and two ranks in turn; with two, every other time only one of them gets the signal."""
    for number in range(trials):
        ranks = 1 + number % 2
        output = small_runs.folder()
        run = small_runs.start(output, ranks=ranks)
        step = draw.randint(1, 6)
        run.wait_for(f"step {step} ")
        run.signal(SIGNALS[number // 2 % 2], [1] if number % 4 == 3 else None)
        began = time.monotonic()
        ended = run.wait(30)
        late = time.monotonic() - began
        steps_more = run.said().count(" loss ") - step
        found = small_runs.finish(output, ranks=ranks)
        good = _all_stopped(ended) and late < LIMIT and steps_more <= 2 and found == small_runs.reference(ranks=ranks)
        outcome.count(good, f"{ranks} ranks: {[e.status for e in ended]} after {late:.1f} s, hash {found[:8]}")


@fault("SIGTERM or SIGUSR1 in evaluation", f"all ranks exit {EXIT_STOPPED}; same hash afterwards", full=8, short=1)
def in_evaluation(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Evaluation is slowed down, the signal comes in the middle of it."""
    for number in range(trials):
        ranks = 2 - number % 2
        output = small_runs.folder()
        slow = Injection("slow_evaluation", arguments={"seconds": 1.0})
        run = small_runs.start(output, ranks=ranks, faults=[slow])
        run.wait_for("step 3 ")
        time.sleep(0.3)
        run.signal(SIGNALS[number // 2 % 2])
        ended = run.wait(30)
        found = small_runs.finish(output, ranks=ranks)
        good = _all_stopped(ended) and "top-1" not in ended[0].text and found == small_runs.reference(ranks=ranks)
        outcome.count(good, f"{ranks} ranks: {[e.status for e in ended]}: {ended[0].last_line}")


@fault("SIGTERM or SIGUSR1 at start-up", f"exit {EXIT_STOPPED}; same hash afterwards", full=8, short=1)
def in_start_up(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The signal comes while the model is built, or at a random moment before."""
    for number in range(trials):
        ranks = 1 + number % 2
        output = small_runs.folder()
        run = small_runs.start(output, ranks=ranks, faults=[Injection("slow_start", arguments={"seconds": 1.0})])
        for rank in range(ranks):
            run.wait_for("building the model", rank)
        run.signal(SIGNALS[number // 2 % 2])
        ended = run.wait(30)
        found = small_runs.finish(output, ranks=ranks)
        good = _all_stopped(ended) and found == small_runs.reference(ranks=ranks)
        outcome.count(good, f"{ranks} ranks: {[e.status for e in ended]}: {ended[0].last_line}")


@fault(
    "SIGTERM while the disk is full",
    f"exit {EXIT_FAILURE}, no word of a saved state; the same command goes on from the last checkpoint, same hash",
    full=8,
    short=2,
)
def on_a_full_disk(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """No checkpoint can be written from some point on; then the signal comes."""
    for number in range(trials):
        ranks = 1 + number % 2
        output = small_runs.folder()
        full = Injection("refuse_writes", arguments={"first": draw.randint(5, 14), "last": 10**6, "error": "ENOSPC"})
        run = small_runs.start(output, ranks=ranks, faults=[full])
        run.wait_for(f"step {draw.randint(5, 7)} ")
        run.signal(signal.SIGTERM)
        ended = run.wait(30)
        honest = "CANNOT BE SAVED" in ended[0].text and "goes on from there" not in ended[0].text
        found = small_runs.finish(output, ranks=ranks)
        good = honest and all(e.status == EXIT_FAILURE for e in ended) and found == small_runs.reference(ranks=ranks)
        outcome.count(good, f"{ranks} ranks: {[e.status for e in ended]}: {ended[0].last_line}")


@fault("the terminal is closed (SIGHUP)", "the run goes on to its end, same hash", full=4, short=1)
def without_terminal(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The signal that a shell sends when its window is closed."""
    for _ in range(trials):
        output = small_runs.folder()
        run = small_runs.start(output)
        run.wait_for(f"step {draw.randint(1, 6)} ")
        run.signal(signal.SIGHUP)
        (ended,) = run.wait(30)
        good = ended.status == 0 and small_runs.finish(output) == small_runs.reference()
        outcome.count(good, f"{ended.status}: {ended.last_line}")


def _all_stopped(ended: list[Ended]) -> bool:
    return all(e.status == EXIT_STOPPED for e in ended)
