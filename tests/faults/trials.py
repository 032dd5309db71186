"""What a set of trials has shown, and the registry of all of them."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

from tests.faults.small_run import SmallRuns


@dataclass
class Outcome:
    """Counts of trials of one fault."""

    name: str
    expected: str
    passed: int = 0
    total: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def count(self, good: bool, failure: str) -> None:
        """Count a trial; ``failure`` says what was seen instead."""
        self.total += 1
        self.passed += good
        if not good:
            self.failures.append(failure)


Trial = Callable[[SmallRuns, int, random.Random, Outcome], None]


@dataclass(frozen=True)
class FaultCase:
    """A fault of the suite: how often it is tried, and what must come of it."""

    name: str
    expected: str
    trial: Trial
    full: int
    short: int


SUITE: list[FaultCase] = []
MODULES = ("checkpoints", "nonfinite", "ranks", "resume", "safety", "stops")


def load_suite() -> list[FaultCase]:
    """All faults: importing a module registers its own."""
    for name in MODULES:
        import_module(f"tests.faults.{name}")
    return SUITE


def fault(name: str, expected: str, *, full: int, short: int) -> Callable[[Trial], Trial]:
    """Register a trial function under the name of its fault.

    Args:
        expected: what must be seen, in words.
        full: trials of ``make faults``.
        short: trials inside the tests; 0 leaves the fault to ``make faults``.
    """

    def register(trial: Trial) -> Trial:
        SUITE.append(FaultCase(name, expected, trial, full, short))
        return trial

    return register


def try_fault(item: FaultCase, small_runs: SmallRuns, trials: int, seed: int = 0) -> Outcome:
    """Do the trials of one fault."""
    outcome = Outcome(item.name, item.expected)
    began = time.monotonic()
    item.trial(small_runs, trials, random.Random(f"{seed} {item.name}"), outcome)
    outcome.seconds = time.monotonic() - began
    return outcome
