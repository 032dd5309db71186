"""Where a run says that it is, and what one that goes on does not do again; in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_trainer import stop_in_evaluation

from engine import journal, run, signals, trainer
from engine.config import load_config
from engine.distributed import World
from engine.errors import RunStopped
from engine.records import RunResult, read_run
from engine.run import train
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

    class Hears(run.Watchdog):
        def __init__(self, world: World, timeout: float) -> None:
            heard.append(timeout)
            super().__init__(world, timeout)

        def at(self, where: str) -> None:
            heard.append(where)
            super().at(where)

    monkeypatch.setattr(run, "Watchdog", Hears)
    go(small_runs, small_runs.folder(), "train.timeout=66")
    wait = "waiting for the other ranks"
    steps = [f"step {n}{text}" for n in range(STEPS) for text in (", waiting for data", f", {wait}", "")]
    batches = [f"evaluation, batch {n}{text}" for n in range(BATCHES) for text in ("", f", {wait}")]
    assert heard == [66.0, *steps, *batches, "the end"]


def test_a_run_that_goes_on_starts_from_its_state_alone(small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its last evaluation: initial weights are not looked for, and what is saved is not saved again."""
    output = small_runs.folder()
    with monkeypatch.context() as patch:
        stop_in_evaluation(patch)
        with pytest.raises(RunStopped, match="after step 3"):
            go(small_runs, output)
    monkeypatch.setattr(trainer, "load_initial", lambda *_: pytest.fail("a run that goes on has its weights"))
    monkeypatch.setattr(trainer.CheckpointFolder, "save", lambda *_: pytest.fail("step 3 is saved"))
    compared: list[tuple[Any, ...]] = []
    monkeypatch.setattr(trainer, "check_same", lambda *what: compared.append(what))
    result = go(small_runs, output)
    assert (result.steps, result.epochs) == (STEPS, 1)
    ((saved, now, folder),) = compared  # the data that the run began with, and those of now
    assert saved and saved == now and folder == output


@pytest.mark.parametrize("there", [False, True])
def test_initial_weights_are_fetched_before_anything_is_built(small_runs: SmallRuns, monkeypatch, there: bool) -> None:
    """Only where the run has no state yet: a download may take longer than the ranks wait for each other."""
    output, asked = small_runs.folder(), []
    if there:
        (output / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(run, "initial_file", lambda config: asked.append(config.output))

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "join_world", end)
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
    monkeypatch.setattr(run.runfolder, "RunLock", Lock)
    monkeypatch.setattr(run.runfolder, "check_same_run", lambda *_: done.append("compared"))
    monkeypatch.setattr(run, "set_up_text_log", lambda folder, rank: done.append(rank))
    monkeypatch.setattr(run, "join_world", end)
    with pytest.raises(KeyboardInterrupt):
        go(small_runs, small_runs.folder())
    assert done == ([1] if rank == 1 else ["locked", "compared", 0, "released"])


def test_epochs_are_evaluated_as_often_as_asked_and_at_the_end(small_runs: SmallRuns) -> None:
    output = small_runs.folder()
    go(small_runs, output, "train.epochs=3", "eval.every=2")
    assert [record.epoch for record in read_run(output).epochs if record.top1 is not None] == [2, 3]
    assert [record.epoch for record in read_run(output).epochs] == [1, 2, 3]


def test_what_the_config_says_reaches_those_who_do_it(small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments of each part that a run builds, without those that a run makes on its way."""
    noted: dict[str, tuple[Any, ...]] = {}
    names = ("CheckpointFolder", "CheckpointSaver", "Meter", "StepReader", "Trackers", "StepProfiler", "OutputWriter")
    for name in (*names, "build_metric", "build_mixup", "weigh", "batch_warning", "load_initial", "freeze"):
        owner = journal if name == "Trackers" else trainer
        original = getattr(owner, name)

        def note(*values: Any, name: str = name, original: Any = original) -> Any:
            noted[name] = values
            return original(*values)

        monkeypatch.setattr(owner, name, note)

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train_step", end)
    output = small_runs.folder()
    asked = ("train.keep=4", "train.save_every=9", "train.max_bad_steps=6", "train.class_weights=balanced")
    with pytest.raises(KeyboardInterrupt):
        go(small_runs, output, *asked, "train.bn_batch=24", "train.freeze=[stem]", "train.tensorboard=true")
    config = load_config(small_runs.config, [], world_size=1)
    classes = [f"class{number}" for number in range(4)]
    assert noted["CheckpointFolder"] == (output / "checkpoints", 4)
    assert noted["CheckpointSaver"][1:] == (9, 0) and noted["CheckpointSaver"][0].keep == 4
    assert noted["Meter"][0] == 12 and noted["StepReader"][2] == 6
    assert noted["Trackers"][:3] == (output, True, None) and noted["Trackers"][4] == 0
    assert noted["Trackers"][3]["train"]["keep"] == 4
    assert noted["StepProfiler"][0] == output and noted["StepProfiler"][2] is False
    assert noted["OutputWriter"][2:] == ("images", classes)
    assert (noted["build_metric"][0], noted["build_metric"][2:]) == ("original", (4, torch.device("cpu")))
    assert noted["build_metric"][1].num_images == 13
    assert noted["build_mixup"] == (config.data, 4)
    assert noted["weigh"][1] == "balanced" and noted["weigh"][2].num_images == 40
    assert (noted["batch_warning"][1], noted["batch_warning"][3]) == (12, 24)
    assert noted["load_initial"][2] == classes and noted["freeze"][1] == ("stem",)


def test_wandb_is_looked_for_at_once_and_told_its_project(small_runs: SmallRuns, monkeypatch) -> None:
    asked: list[Any] = []

    def open_boards(folder: Path, tensorboard: bool, project: str | None, *_: Any) -> None:
        asked.append(project)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "check_wandb", asked.append)
    monkeypatch.setattr(journal, "Trackers", open_boards)
    with pytest.raises(KeyboardInterrupt):
        go(small_runs, small_runs.folder(), "train.wandb=nets")
    assert asked == ["nets", "nets"]


def test_seconds_of_steps_add_up_and_those_of_an_evaluation_are_its_own(small_runs: SmallRuns, monkeypatch) -> None:
    evaluate, output = trainer.evaluate, small_runs.folder()
    monkeypatch.setattr(trainer, "evaluate", lambda *of, **how: replace(evaluate(*of, **how), seconds=7.5))
    result = go(small_runs, output, "train.log_every=1")
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps = [record["step_seconds"] for record in records if record["kind"] == "step"]
    assert len(steps) == STEPS and result.train_seconds == pytest.approx(sum(steps))
    assert [record["eval_seconds"] for record in records if record["kind"] == "epoch"] == [7.5]


def test_ranks_wait_for_each_other_as_long_as_the_config_says(small_runs: SmallRuns, monkeypatch) -> None:
    join, asked = run.join_world, []

    def seen(*how: Any) -> Any:
        asked.append(how)
        return join(*how)

    monkeypatch.setattr(run, "join_world", seen)
    go(small_runs, small_runs.folder(), "train.timeout=66")
    assert asked == [("cpu", 66.0)]


def test_a_run_that_ends_early_says_after_which_epoch_of_how_many(small_runs: SmallRuns, monkeypatch) -> None:
    ends = lambda progress, train: "for its reason" if progress.epoch else None  # noqa: E731
    monkeypatch.setattr(trainer, "reason_to_end", ends)
    output = small_runs.folder()
    go(small_runs, output, "train.epochs=3")
    assert "the run ends after epoch 1 of 3: for its reason" in (output / "train.log").read_text()
