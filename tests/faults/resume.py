"""Runs that are killed, and must end with the weights of the run that nothing happened to."""

import json
import random
import signal
import time

from tests.faults.inject import Injection
from tests.faults.small_run import SmallRuns
from tests.faults.trials import Outcome, fault

SAME = "the same command goes on; last weights have the hash of the uninterrupted run"
STAGES = ("half", "flush", "rename", "renamed")


def _duration(small_runs: SmallRuns, ranks: int) -> float:
    """Seconds that an uninterrupted run takes at present on this machine."""
    small_runs.reference(ranks=ranks)
    began = time.monotonic()
    small_runs.finish(small_runs.folder(), ranks=ranks)
    return time.monotonic() - began


@fault("kill -9 at a random moment, one process", SAME, full=70, short=3)
def kill_anywhere(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The moment is uniform over the whole run, start-up and evaluation included."""
    length = _duration(small_runs, 1)
    for _ in range(trials):
        _kill_and_go_on(small_runs, draw.uniform(0, length), outcome)


@fault("kill -9 while a checkpoint is written, one process", SAME, full=32, short=4)
def kill_in_save(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Each save writes two files; the process dies at one of four stages of one of these writes."""
    expected = small_runs.reference()
    for number in range(trials):
        write, stage = draw.randint(1, 10), STAGES[number % len(STAGES)]
        output = small_runs.folder()
        dying = Injection("kill_in_write", arguments={"write": write, "stage": stage})
        (ended,) = small_runs.start(output, faults=[dying]).wait()
        found = small_runs.finish(output)
        good = ended.status == -signal.SIGKILL and found == expected
        outcome.count(good, f"write {write}, {stage}: status {ended.status}, hash {found[:8]} not {expected[:8]}")


@fault("kill -9 again and again until the run is through", SAME, full=5, short=0)
def kill_repeatedly(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Each start is killed after a random time, which grows so that the run ends at last."""
    length = _duration(small_runs, 1)
    for _ in range(trials):
        output, kills = small_runs.folder(), 0
        while True:
            run = small_runs.start(output)
            time.sleep(draw.uniform(0.3, 0.9 + 0.1 * kills) * length)
            run.signal(signal.SIGKILL)
            if run.wait()[0].status == 0:
                break
            kills += 1
        found = small_runs.finish(output)
        outcome.count(found == small_runs.reference(), f"after {kills} kills the hash is {found[:8]}")


@fault("kill -9 of one rank or both, two ranks", SAME, full=20, short=1)
def kill_rank(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """A rank that is left alone must end by itself, not hang."""
    length = _duration(small_runs, 2)
    for _ in range(trials):
        output = small_runs.folder()
        run = small_runs.start(output, ["train.timeout=30"], ranks=2)
        time.sleep(draw.uniform(0, length))
        victims = draw.choice([[0], [1], [0, 1]])
        run.signal(signal.SIGKILL, victims)
        left = [e.status for rank, e in enumerate(run.wait(timeout=90)) if rank not in victims]
        found = small_runs.finish(output, ranks=2)
        good = None not in left and found == small_runs.reference(ranks=2)
        outcome.count(good, f"ranks {victims} killed: the others ended with {left}, hash {found[:8]}")


@fault("kill -9, three ranks", SAME, full=5, short=0)
def kill_three(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """From three ranks on, the order in which gradients are added must survive the restart, too."""
    length = _duration(small_runs, 3)
    for _ in range(trials):
        output = small_runs.folder()
        run = small_runs.start(output, ranks=3)
        time.sleep(draw.uniform(0.3, 1) * length)
        run.signal(signal.SIGKILL)
        run.wait()
        found = small_runs.finish(output, ranks=3)
        outcome.count(found == small_runs.reference(ranks=3), f"hash {found[:8]}")


@fault("kill -9, then go on with another number of loader workers", SAME, full=10, short=1)
def change_workers(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The workers before and after the kill differ: 0, 1 or 2."""
    length = _duration(small_runs, 1)
    for _ in range(trials):
        before, after = draw.sample(range(3), 2)
        output = small_runs.folder()
        run = small_runs.start(output, [f"data.workers={before}"])
        time.sleep(draw.uniform(0.3, 1) * length)
        run.signal(signal.SIGKILL)
        run.wait()
        found = small_runs.finish(output, [f"data.workers={after}"])
        outcome.count(found == small_runs.reference(), f"{before} then {after} workers: hash {found[:8]}")


@fault(
    "go on with another number of ranks",
    "the same samples with the same augmentation in the same order",
    full=6,
    short=1,
)
def change_ranks(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Every rank writes down the images that it trains on; the parts of all ranks are joined and compared."""
    expected = _samples(small_runs, draw, 1, 1)
    for number in range(trials):
        before, after = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)][number % 6]
        found = _samples(small_runs, draw, before, after)
        outcome.count(found == expected, f"{before} then {after} ranks see other samples")


def _samples(small_runs: SmallRuns, draw: random.Random, before: int, after: int) -> dict[int, list[list]]:
    """What a run that is killed in between sees: by step, the index and check sum of each image."""
    output = small_runs.folder()
    folder = output.with_name(output.name + ".samples")
    folder.mkdir(parents=True)
    recording = [Injection("record_samples", arguments={"folder": str(folder)})]
    run = small_runs.start(output, ranks=before, faults=recording)
    run.wait_for(f"step {draw.randint(3, 8)} ")
    run.signal(signal.SIGKILL)
    run.wait()
    run = small_runs.start(output, ranks=after, faults=recording)
    if any(e.status != 0 for e in run.wait()):
        raise RuntimeError(run.said())
    seen: dict[int, dict[int, list]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        for line in path.read_text().splitlines():
            step, position, samples = json.loads(line)
            for place, sample in enumerate(samples):
                seen.setdefault(step, {})[position + place] = sample
    return {step: [places[p] for p in sorted(places)] for step, places in seen.items()}


def _kill_and_go_on(small_runs: SmallRuns, delay: float, outcome: Outcome) -> None:
    output = small_runs.folder()
    run = small_runs.start(output)
    time.sleep(delay)
    run.signal(signal.SIGKILL)
    run.wait()
    found, expected = small_runs.finish(output), small_runs.reference()
    outcome.count(found == expected, f"killed after {delay:.3f} s: hash {found[:8]} not {expected[:8]}")
