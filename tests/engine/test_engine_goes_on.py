"""Where a run says that it is, and what one that goes on does not do again; in this process."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from engine import signals, trainer
from engine.config import load_config
from engine.errors import RunStopped
from engine.records import RunResult
from engine.trainer import train
from tests.faults.small_run import SmallRuns

STEPS, BATCHES = 3, 4  # 40 images, 12 a step; 13 validation images, 4 a batch


def go(small_runs: SmallRuns, output: Path, *options: str) -> RunResult:
    """A run of one epoch in this process; a signal that stopped it is forgotten."""
    short = ("train.epochs=1", "train.warmup_epochs=0", "train.save_every=100", f"output={output}")
    try:
        return train(load_config(small_runs.config, [*short, *options], world_size=1))
    finally:
        signals.forget()


def test_the_watchdog_hears_where_the_run_is(small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    class Hears(trainer.Watchdog):
        def __init__(self, world: trainer.World, timeout: float) -> None:
            heard.append(timeout)
            super().__init__(world, timeout)

        def at(self, where: str) -> None:
            heard.append(where)
            super().at(where)

    monkeypatch.setattr(trainer, "Watchdog", Hears)
    go(small_runs, small_runs.folder(), "train.timeout=66")
    wait = "waiting for the other ranks"
    steps = [f"step {n}{text}" for n in range(STEPS) for text in (", waiting for data", f", {wait}", "")]
    batches = [f"evaluation, batch {n}{text}" for n in range(BATCHES) for text in ("", f", {wait}")]
    assert heard == [66.0, *steps, *batches, "the end"]


def test_a_run_that_goes_on_starts_from_its_state_alone(small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its last evaluation: initial weights are not looked for, and what is saved is not saved again."""
    output, evaluate = small_runs.folder(), trainer.evaluate

    def stop(*values: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return evaluate(*values, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", stop)
        with pytest.raises(RunStopped, match="after step 3"):
            go(small_runs, output)
    monkeypatch.setattr(trainer, "load_initial", lambda *_: pytest.fail("a run that goes on has its weights"))
    monkeypatch.setattr(trainer.CheckpointFolder, "save", lambda *_: pytest.fail("step 3 is saved"))
    result = go(small_runs, output)
    assert (result.steps, result.epochs) == (STEPS, 1)


@pytest.mark.parametrize("there", [False, True])
def test_initial_weights_are_fetched_before_anything_is_built(small_runs: SmallRuns, monkeypatch, there: bool) -> None:
    """Only where the run has no state yet: a download may take longer than the ranks wait for each other."""
    output, asked = small_runs.folder(), []
    if there:
        (output / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(trainer, "initial_file", lambda config: asked.append(config.output))

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "join_world", end)
    with pytest.raises(KeyboardInterrupt):
        go(small_runs, output)
    assert asked == ([] if there else [output])


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_rank_0_alone_holds_the_folder(
    small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch, rank: int | None
) -> None:
    """torchrun says which rank a process is; a process without it is the only one."""
    done: list[Any] = []

    class Lock:
        def __init__(self, folder: Path) -> None:
            done.append("locked")

        def release(self) -> None:
            done.append("released")

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    if rank is not None:
        monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(trainer.runfolder, "RunLock", Lock)
    monkeypatch.setattr(trainer.runfolder, "check_same_run", lambda *_: done.append("compared"))
    monkeypatch.setattr(trainer, "set_up_text_log", lambda folder, rank: done.append(rank))
    monkeypatch.setattr(trainer, "join_world", end)
    with pytest.raises(KeyboardInterrupt):
        go(small_runs, small_runs.folder())
    assert done == ([1] if rank == 1 else ["locked", "compared", 0, "released"])
