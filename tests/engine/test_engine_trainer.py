"""The loop of a run, in this process: what it writes, when it stops, and what it says."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import run, runfolder, signals, trainer
from engine.config import load_config
from engine.distributed import World
from engine.errors import RankFailed, RunStopped, TrainingFailed
from engine.evaluate import Accuracy
from engine.logs import Trackers
from engine.records import RunResult
from engine.replaced import ReplacedImages
from engine.run import train
from engine.trainer import Trainer
from models.errors import UserError
from tests.faults.small_run import SmallRuns

EPOCHS, STEPS, BATCH = 2, 3, 12  # 40 images, 12 a step
SHORT = (f"train.epochs={EPOCHS}", "train.warmup_epochs=0", "train.ema_decay=null", "train.save_every=100")


@pytest.fixture(scope="module")
def whole(small_runs: SmallRuns) -> tuple[Path, RunResult]:
    """A run that nothing disturbs, evaluated after its last epoch alone."""
    output = small_runs.folder()
    return output, go(small_runs, output, "eval.every=2", "train.bn_batch=64")


def go(small_runs: SmallRuns, output: Path, *options: str) -> RunResult:
    """A run; a signal that stopped it is forgotten, as by a process that ends."""
    try:
        return train(load_config(small_runs.config, [*SHORT, *options, f"output={output}"], world_size=1))
    finally:
        signals.forget()


def log_of(output: Path, kind: str) -> list[dict]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def said(output: Path) -> list[str]:
    """What ``train.log`` has, without the time."""
    return [line.split(" ", 2)[2] for line in (output / "train.log").read_text().splitlines()]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something in the step after so many."""
    original, count = trainer.train_step, []

    def step(*values: Any) -> Any:
        count.append(1)
        if len(count) == number + 1:
            act()
        return original(*values)

    monkeypatch.setattr(trainer, "train_step", step)


def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes when an evaluation begins."""
    original = trainer.evaluate

    def evaluate(*values: Any, **options: Any) -> Accuracy:
        os.kill(os.getpid(), signal.SIGUSR1)
        return original(*values, **options)

    monkeypatch.setattr(trainer, "evaluate", evaluate)


def spoil(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Put NaN into the images of these steps, counted from 0."""
    original = trainer.train_step

    def step(state: Any, batches: Any, *rest: Any) -> Any:
        if state.progress.step in numbers:
            batches = [replace(batch, images=batch.images * float("nan")) for batch in batches]
        return original(state, batches, *rest)

    monkeypatch.setattr(trainer, "train_step", step)


def test_each_step_and_epoch_is_in_the_log(whole) -> None:
    output, result = whole
    steps, epochs = log_of(output, "step"), log_of(output, "epoch")
    assert [(r["step"], r["epoch"]) for r in steps] == [(n + 1, n // STEPS + 1) for n in range(EPOCHS * STEPS)]
    assert [(r["step"], r["epoch"], r["skipped"], r["replaced_images"]) for r in epochs] == [(3, 1, 0, 0), (6, 2, 0, 0)]
    for record in epochs:
        losses = [step["loss"] for step in steps if step["epoch"] == record["epoch"]]
        assert record["train_loss"] == pytest.approx(sum(losses) / STEPS)
    assert "top1" not in epochs[0] and epochs[1]["images"] == 13
    assert (epochs[1]["top1"], epochs[1]["top5"]) == (result.top1, 100.0)  # of four classes
    assert [r["eta_seconds"] / r["step_seconds"] for r in steps] == pytest.approx([5, 4, 3, 2, 1, 0])
    assert (result.epochs, result.steps, result.skipped_steps, result.best_epoch) == (2, 6, 0, 2)


def test_the_log_says_what_is_trained_and_how_far_it_is(whole) -> None:
    output, result = whole
    lines = said(output)
    assert lines[0].startswith("WARNING WARNING: batch normalisation sees 12 images at a time where the recipe has 64")
    assert lines[1] == (
        f"INFO dw_conv_nano on images: 40 images, 3 steps per epoch of 12 images, 1 ranks, from step 0; "
        f"results in {output}"
    )
    top, end = 5e-4 * 12 / 512, 5e-6 * 12 / 512
    assert lines[2] == f"INFO rates: {top:g}, cosine to {end:g} (batch 12 / 512 times the values given)"
    steps = [line for line in lines if " step " in line and " loss " in line]
    record = log_of(output, "step")[3]
    assert len(steps) == EPOCHS * STEPS and steps[3].split() == [
        *f"INFO epoch 2/2 step 4 loss {record['loss']:.4f} lr {record['lr']:.3e} grad norm".split(),
        *f"{record['grad_norm']:.3f} {record['images_per_second']:.0f} images/s data".split(),
        *f"{record['data_seconds']:.3f} s step {record['step_seconds']:.3f} s memory".split(),
        *f"{record['memory_gib']:.2f} GiB left 00:00:0{int(record['eta_seconds'])}".split(),
    ]
    scores = [line for line in lines if "top-1" in line]
    assert len(scores) == 1
    assert re.fullmatch(
        rf"INFO epoch 2/2  top-1 {result.top1:.3f}  top-5 100\.000  of 13 images in \d+\.\d s", scores[0]
    )


def test_checkpoints_stand_at_the_end_of_each_epoch(whole) -> None:
    output, _ = whole
    names = {path.name for path in (output / "checkpoints").glob("*.safetensors")}
    assert names == {"step-000000003.safetensors", "step-000000006.safetensors"}


def test_a_finished_run_is_not_trained_again(small_runs: SmallRuns, whole) -> None:
    output, result = whole
    before = (output / "log.jsonl").read_text()
    assert go(small_runs, output, "eval.every=2", "train.bn_batch=64") == result
    assert said(output)[-1] == f"INFO {output} is finished: nothing to train"
    assert (output / "log.jsonl").read_text() == before


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_run_that_a_signal_stops_goes_on_as_if_nothing_had_been(
    small_runs: SmallRuns, whole, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In the middle of an epoch; at its end, so that only the evaluation is missing; in the second."""
    output, options = small_runs.folder(), ("eval.every=2", "train.bn_batch=64")
    with monkeypatch.context() as patch:
        at_step(patch, number, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(RunStopped) as caught:
            go(small_runs, output, *options)
    done = number + 1
    assert str(caught.value) == f"stopped by SIGUSR1 after step {done}; the same command goes on from there"
    assert (output / "checkpoints" / f"step-{done:09d}.safetensors").exists()
    result = go(small_runs, output, *options)
    assert result.checkpoint_sha256 == whole[1].checkpoint_sha256
    assert [record["step"] for record in log_of(output, "step")] == [1, 2, 3, 4, 5, 6]
    losses = [record["train_loss"] for record in log_of(output, "epoch")]
    assert losses == [record["train_loss"] for record in log_of(whole[0], "epoch")]
    assert any(f"from step {done}; results" in line for line in said(output))


def test_a_stop_in_an_evaluation_leaves_the_epochs_state(small_runs: SmallRuns, whole, monkeypatch) -> None:
    output = small_runs.folder()
    with monkeypatch.context() as patch:
        stop_in_evaluation(patch)
        with pytest.raises(RunStopped, match="stopped by SIGUSR1 after step 6; the same command"):
            go(small_runs, output, "eval.every=2", "train.bn_batch=64")
    assert len(log_of(output, "epoch")) == 1
    result = go(small_runs, output, "eval.every=2", "train.bn_batch=64")
    assert result.checkpoint_sha256 == whole[1].checkpoint_sha256
    assert [record["epoch"] for record in log_of(output, "epoch")] == [1, 2]


def test_a_stop_that_cannot_be_saved_says_from_where_the_run_goes_on(small_runs: SmallRuns, monkeypatch) -> None:
    output = small_runs.folder()

    def act() -> None:
        def refuse(*_: Any) -> None:
            raise OSError("full")

        monkeypatch.setattr("engine.checkpoint.write_atomic", refuse)
        os.kill(os.getpid(), signal.SIGUSR1)

    at_step(monkeypatch, 4, act)
    with pytest.raises(TrainingFailed) as caught:
        go(small_runs, output)
    assert str(caught.value) == (
        "stopped by SIGUSR1 after step 5, whose state CANNOT BE SAVED (see above): the same command goes on from step 3"
    )


def test_steps_that_are_not_finite_are_skipped_and_counted(small_runs: SmallRuns, monkeypatch) -> None:
    output = small_runs.folder()
    spoil(monkeypatch, 1, 3, 4)
    result = go(small_runs, output, "train.max_bad_steps=3")
    steps, epochs = log_of(output, "step"), log_of(output, "epoch")
    assert [record["loss"] is None for record in steps] == [False, True, False, True, True, False]
    assert result.skipped_steps == 3 and [record["skipped"] for record in epochs] == [1, 3]
    assert epochs[0]["train_loss"] == pytest.approx((steps[0]["loss"] + steps[2]["loss"]) / 2)
    assert epochs[1]["train_loss"] == pytest.approx(steps[5]["loss"])
    lines = said(output)
    warned = [line for line in lines if "skipped" in line]
    assert warned == [f"WARNING WARNING: step {n} skipped: loss nan, gradient norm nan" for n in (1, 3, 4)]
    assert any("step 2  loss none  lr " in line and "grad norm none  " in line for line in lines)


def test_an_epoch_of_skipped_steps_has_no_loss(small_runs: SmallRuns, monkeypatch) -> None:
    output = small_runs.folder()
    spoil(monkeypatch, 0, 1, 2)
    go(small_runs, output, "train.epochs=1")
    assert log_of(output, "epoch")[0]["train_loss"] is None


def test_too_many_bad_steps_end_the_run_and_the_place_is_named(small_runs: SmallRuns, monkeypatch) -> None:
    output = small_runs.folder()
    spoil(monkeypatch, 0, 2, 3, 4)
    with pytest.raises(TrainingFailed) as caught:
        go(small_runs, output, "train.max_bad_steps=3")
    assert str(caught.value) == (
        "loss or gradient was not finite in 3 steps in a row, last in step 4; first bad: nothing when the step is run "
        f"again; see {output}/nonfinite-step-000000004.json"
    )
    assert (output / "nonfinite-step-000000004.json").is_file()


def test_images_that_cannot_be_read_end_the_run(small_runs: SmallRuns, monkeypatch) -> None:
    original = trainer.build_loaders

    def build(*values: Any) -> Any:
        loader, other = original(*values)

        def epoch(number: int, start: int = 0) -> Any:
            raise OSError("no such disk")
            yield

        loader.epoch = epoch
        return loader, other

    monkeypatch.setattr(trainer, "build_loaders", build)
    with pytest.raises(TrainingFailed) as caught:
        go(small_runs, small_runs.folder())
    assert str(caught.value) == "training cannot read its images: rank 0: OSError: no such disk"


@pytest.fixture
def broken_image(small_runs: SmallRuns) -> Any:
    """One training image is no picture during the test."""
    path = small_runs.root / "images" / "train" / "class1" / "005.png"
    content = path.read_bytes()
    path.write_bytes(content[:40])
    yield "class1/005.png"
    path.write_bytes(content)


def test_replaced_images_are_counted_and_listed(small_runs: SmallRuns, broken_image: str) -> None:
    output = small_runs.folder()
    go(small_runs, output, "data.max_corrupt=0.025")  # one of 40
    assert [record["replaced_images"] for record in log_of(output, "epoch")][-1] == 1
    listed = json.loads((output / "replaced.json").read_text())
    assert list(listed) == [broken_image] and "005.png" in listed[broken_image]


def test_replaced_images_of_before_a_stop_count_unless_mended(small_runs: SmallRuns, broken_image: str) -> None:
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    loader, _ = trainer.build_loaders(load_config(small_runs.config, world_size=1), alone)
    found = ReplacedImages(small_runs.folder(), loader, alone, allowed=0.0)
    found._path.parent.mkdir(parents=True)
    mended = loader.name(0)
    found._path.write_text(json.dumps({broken_image: "was broken", mended: "was broken", "gone.png": "is no more"}))
    found.take_up()
    with pytest.raises(TrainingFailed, match="1 of 40 training images cannot be read"):
        found.count()
    assert list(json.loads(found._path.read_text())) == [broken_image]  # written before the run ends


def test_more_replaced_images_than_allowed_end_the_run(small_runs: SmallRuns, broken_image: str) -> None:
    with pytest.raises(TrainingFailed, match=r"1 of 40 training images cannot be read, above data\.max_corrupt=0\.02"):
        go(small_runs, small_runs.folder(), "data.max_corrupt=0.02")


def test_a_folder_that_cannot_be_written_is_named(small_runs: SmallRuns, monkeypatch) -> None:
    output = small_runs.folder()

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(runfolder, "record_start", refuse)
    with pytest.raises(UserError) as caught:
        go(small_runs, output)
    assert str(caught.value) == f"output: the run folder {output} cannot be written (Permission denied)"


WORKER, PEER = "DataLoader worker (pid 7)\nis killed", "gloo: Connection reset by peer"


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        (WORKER, 1, "rank 0: WorkerError: a loader worker died: DataLoader worker (pid 7) is killed"),
        (PEER, 2, f"rank 0 has lost another rank, whose own message says why: {PEER}"),
        (PEER, 1, None),
        ("shape mismatch", 2, None),
    ],
)
def test_deaths_are_told_in_one_line_and_other_errors_as_they_are(text: str, ranks: int, message: str | None) -> None:
    world = World(0, ranks, torch.device("cpu"))
    found = Trainer._in_words(type("", (), {"world": world})(), RuntimeError(text))  # type: ignore[arg-type]
    assert (found is None) == (message is None)
    if found is not None:
        assert isinstance(found, RankFailed) and str(found) == message


def test_what_was_opened_is_closed_whatever_happens(small_runs: SmallRuns, monkeypatch) -> None:
    closed = []
    owners = ((Trackers, "close"), (trainer.StepProfiler, "close"), (run.Watchdog, "__exit__"))
    for owner, name in owners:
        original = getattr(owner, name)

        def close(self: Any, *how: Any, original: Any = original, owner: Any = owner) -> None:
            closed.append(owner.__name__)
            original(self, *how)

        monkeypatch.setattr(owner, name, close)

    def fail() -> None:
        raise RuntimeError("shape mismatch")

    at_step(monkeypatch, 1, fail)
    output = small_runs.folder()
    with pytest.raises(RuntimeError, match=r"^shape mismatch$"):
        go(small_runs, output)
    assert set(closed) == {"Trackers", "StepProfiler", "Watchdog"}
    monkeypatch.undo()
    assert go(small_runs, output).steps == EPOCHS * STEPS  # and the folder is free again


def test_a_run_that_does_not_start_leaves_nobody_to_end_the_process(small_runs: SmallRuns, tmp_path: Path) -> None:
    """A watchdog that outlived its run would end the program that called it, ``train.timeout`` seconds later."""
    built = []

    class Seen(run.Watchdog):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            built.append(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="nowhere"):
        patch.setattr(run, "Watchdog", Seen)
        go(small_runs, small_runs.folder(), f"data.root={tmp_path / 'nowhere'}")
    assert built and all(each._done.is_set() for each in built)
