"""Checkpoints that are damaged on the disk, and disks that refuse to take them."""

import logging
import random
import shutil
import signal
from pathlib import Path

from engine.checkpoint import CheckpointFolder
from engine.errors import EXIT_FAILURE
from tests.faults.inject import Injection
from tests.faults.small_run import SmallRuns
from tests.faults.trials import Outcome, fault


class _Listener(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@fault(
    "newest checkpoint truncated or one bit of it flipped",
    "never loaded: an error names it and the one before is used",
    full=100,
    short=20,
)
def damage(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Half of the trials cut the file at a random place, half flip a random bit; every fifth hits the manifest."""
    intact = _interrupted_run(small_runs) / "checkpoints"
    newest, before = (int(p.stem[5:]) for p in sorted(intact.glob("*.safetensors"), reverse=True)[:2])
    logger = logging.getLogger("engine.checkpoint")
    for number in range(trials):
        folder = small_runs.folder()
        shutil.copytree(intact, folder)
        kind = "sha256" if number % 5 == 4 else "safetensors"
        what = _spoil(folder / f"step-{newest:09d}.{kind}", number % 2 == 0, draw)
        listener = _Listener()
        logger.addHandler(listener)
        found = CheckpointFolder(folder, keep=2).load()
        logger.removeHandler(listener)
        loud = any(f"DAMAGED checkpoint {folder / f'step-{newest:09d}.safetensors'}" in line for line in listener.lines)
        good = found is not None and found.step == before and loud
        outcome.count(good, f"{kind} {what}: loaded step {found and found.step}, loud {loud}")
        shutil.rmtree(folder)


@fault(
    "damaged checkpoint, whole run",
    "the run goes back to the one before and ends with the hash of the uninterrupted run",
    full=10,
    short=1,
)
def damage_and_go_on(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The newest checkpoint of a stopped run is damaged before the same command starts again."""
    for number in range(trials):
        output = _interrupted_run(small_runs)
        newest = max((output / "checkpoints").glob("*.safetensors"))
        what = _spoil(newest, number % 2 == 0, draw)
        found = small_runs.finish(output)
        outcome.count(found == small_runs.reference(), f"{what}: hash {found[:8]}")


@fault(
    "no space or no permission while saving",
    "loud error, training goes on, saving is tried again, same hash; earlier checkpoints intact",
    full=12,
    short=2,
)
def refuse(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The disk refuses a random stretch of writes (ENOSPC and EACCES in turn), each after half of the bytes."""
    for number in range(trials):
        error = ("ENOSPC", "EACCES")[number % 2]
        first = draw.randint(6, 20)
        stretch = {"first": first, "last": first + draw.randint(2, 8), "error": error}
        refusing = Injection("refuse_writes", arguments=stretch)
        output = small_runs.folder()
        (ended,) = small_runs.start(output, faults=[refusing]).wait()
        loud = "CANNOT SAVE" in ended.text or "CANNOT WRITE" in ended.text
        folder = CheckpointFolder(output / "checkpoints", keep=2)
        intact = folder.load() is not None and not list((output / "checkpoints").glob(".*.tmp"))
        same = ended.status == 0 and small_runs.finish(output) == small_runs.reference()
        outcome.count(loud and intact and same, f"{error} from write {first}: status {ended.status}: {ended.last_line}")


@fault(
    "no space at the end of the run",
    "the last state is written once there is room, or the line names the step that is kept; same hash either way",
    full=8,
    short=2,
)
def refuse_the_end(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The disk is full from the last epoch on, for some seconds or for good."""
    for number in range(trials):
        for_good = bool(number % 2)
        first = draw.randint(27, 33)
        last = 10**6 if for_good else first + draw.randint(2, 4)
        full = Injection("refuse_writes", arguments={"first": first, "last": last, "error": "ENOSPC"})
        output = small_runs.folder()
        (ended,) = small_runs.start(output, ["train.timeout=9"], faults=[full]).wait()
        loud = "CANNOT" in ended.text and ended.status == (EXIT_FAILURE if for_good else 0)
        kept = "is kept: make room and start the same command again" in ended.last_line or not for_good
        same = small_runs.finish(output) == small_runs.reference()
        outcome.count(loud and kept and same, f"from write {first} to {last}: {ended.status}: {ended.last_line}")


def _interrupted_run(small_runs: SmallRuns) -> Path:
    """The folder of a run that was killed with two checkpoints on the disk."""
    output = small_runs.folder()
    run = small_runs.start(output)
    run.wait_for("step 7 ")
    run.signal(signal.SIGKILL)
    run.wait()
    if len(list((output / "checkpoints").glob("*.safetensors"))) < 2:
        raise RuntimeError(f"expected two checkpoints in {output}: {run.said()}")
    return output


def _spoil(path: Path, cut: bool, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    if cut:
        path.write_bytes(data[:place])
        return f"cut at byte {place} of {len(data)}"
    bit = draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)} flipped"
