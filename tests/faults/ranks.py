"""Ranks that stop answering and loaders that die: an error that names them, never a hang."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.errors import EXIT_FAILURE
from engine.weights import file_hash
from tests.faults.inject import Injection
from tests.faults.small_run import Processes, SmallRuns
from tests.faults.trials import Outcome, fault

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 3.0


@fault(
    "a rank is stopped (SIGSTOP) or its loader hangs",
    "both ranks end with an error that names it, soon after train.timeout",
    full=6,
    short=1,
)
def stall(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """Rank 0 or 1 of two; by SIGSTOP or by a loader that sleeps."""
    for number in range(trials):
        rank, by_signal = number % 2, number // 2 % 2 == 0
        output = small_runs.folder()
        hang = [] if by_signal else [Injection("stall_loader", rank, {"step": 4, "seconds": 100.0})]
        run = small_runs.start(output, [f"train.timeout={TIMEOUT}", "train.epochs=30"], ranks=2, faults=hang)
        run.wait_for("step 4 ")
        if by_signal:
            run.signal(signal.SIGSTOP, [rank])
        began = time.monotonic()
        signs = [
            f"no sign of life from rank {rank}",
            f"waiting for rank {rank}",
            f"error: rank {rank}: no progress",
        ]
        while time.monotonic() - began < 10 * TIMEOUT and not _says(run, signs):
            time.sleep(0.05)
        late = time.monotonic() - began
        if by_signal:
            run.wait_for_end(1 - rank, 5)
            run.signal(signal.SIGKILL, [rank])
        status = run.wait(20)[1 - rank].status
        good = _says(run, signs) and status == EXIT_FAILURE and late < 8 * TIMEOUT
        outcome.count(good, f"rank {rank}: status {status} after {late:.1f} s: {run.said(1 - rank)[-300:]}")


def _says(run: Processes, signs: list[str]) -> bool:
    return any(sign in run.said(rank) for rank in (0, 1) for sign in signs)


@fault("a loader worker is killed", f"exit {EXIT_FAILURE}, the error names the worker and the rank", full=6, short=1)
def kill_worker(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """kill -9 of one of two workers."""
    for number in range(trials):
        output, ranks = small_runs.folder(), 1 + number % 2
        run = small_runs.start(output, ["data.workers=2", "train.epochs=60"], ranks=ranks)
        run.wait_for(f"step {draw.randint(2, 6)} ")
        victim = draw.choice(_children(run.pid(ranks - 1)))
        subprocess.run(["kill", "-9", str(victim)], check=True)
        ended = run.wait(60)
        good = all(e.status == EXIT_FAILURE for e in ended)
        line = "; ".join(e.last_line for e in ended)
        good = good and f"rank {ranks - 1}: WorkerError" in line and str(victim) in line
        good = good and all("Traceback" not in e.text for e in ended)
        outcome.count(good, f"{[e.status for e in ended]}: {line}")


@fault(
    "the disk of the images fails on one rank", f"all ranks exit {EXIT_FAILURE}, the error names it", full=4, short=1
)
def fail_loader(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The loader of one rank of two raises an input/output error."""
    for number in range(trials):
        breaking = Injection("fail_loader", number % 2, {"step": draw.randint(0, 6)})
        ended = small_runs.start(small_runs.folder(), ranks=2, faults=[breaking]).wait(60)
        good = all(e.status == EXIT_FAILURE for e in ended)
        good = good and f"rank {number % 2}: OSError" in ended[0].last_line
        outcome.count(good, f"{[e.status for e in ended]}: {ended[0].last_line}")


@fault(
    "kill -9 of a rank under torchrun --max-restarts",
    "torchrun starts the ranks again, the run resumes and ends with the same hash",
    full=2,
    short=0,
)
def restart(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """The real command, two ranks, one restart allowed."""
    for _ in range(trials):
        output = small_runs.folder()
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
        address = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        script = [str(ROOT / "train_cls.py"), "--config", str(small_runs.config), f"output={output}"]
        agent = subprocess.Popen([*torchrun, *address, *script], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        log = output / "log.jsonl"
        until = time.monotonic() + 60
        while time.monotonic() < until and not (log.exists() and log.read_text().count("\n") >= 4):
            time.sleep(0.01)
        victims = [pid for pid in _children(agent.pid) if "train_cls" in _command(pid)]
        subprocess.run(["kill", "-9", str(draw.choice(victims))], check=True)
        _, text = agent.communicate(timeout=180)
        found = file_hash(output / "last.safetensors") if agent.returncode == 0 else "none"
        resumed = "from step 0;" in text and text.count("from step") == 2
        good = resumed and found == small_runs.reference(ranks=2)
        outcome.count(good, f"status {agent.returncode}, hash {found[:8]}: {text[-300:]}")


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
