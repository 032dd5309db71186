"""When the state is saved, what is kept, and what is done about a disk that refuses."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from engine import checkpoint
from engine.checkpoint import CheckpointFolder, CheckpointSaver, insist_on_writing, try_writing
from engine.errors import TrainingFailed


class Run:
    """A run's state after some steps; its weights are that number."""

    def __init__(self, step: int) -> None:
        self.progress = SimpleNamespace(step=step)

    def to_save(self) -> dict[str, Any]:
        return {"w": torch.full((4,), float(self.progress.step))}


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(checkpoint, "time", found)
    return found


@pytest.fixture
def said(engine_log: pytest.LogCaptureFixture) -> Any:
    return lambda: [f"{record.levelname} {record.getMessage()}" for record in engine_log.records]


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(*steps: int) -> list[str]:
    return sorted(f"step-{step:09d}.{kind}" for step in steps for kind in ("safetensors", "sha256"))


def damage(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:09d}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_a_checkpoint_is_what_sha256sum_reads_and_others_can_open(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "a" / "b", keep=1).save(7, Run(7).to_save())
    path = tmp_path / "a" / "b" / "step-000000007.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_suffix(".sha256").read_text() == f"{digest}  step-000000007.safetensors\n"
    (tensor,) = safetensors.torch.load_file(path).values()
    assert tensor.tolist() == [7.0] * 4
    with safetensors.safe_open(path, "pt") as file:
        head = json.loads(file.metadata()["run"])
    assert (head["format"], head["step"]) == ("run-state-1", 7)


def test_an_intact_checkpoint_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop between two steps saves a step twice: a full disk must not take what is there."""
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(7, Run(7).to_save())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    folder.save(7, Run(7).to_save())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    damage(tmp_path, 7)
    with pytest.raises(OSError, match="No space left"):
        folder.save(7, Run(7).to_save())


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_are_kept_and_remains_of_others_go(tmp_path: Path, keep: int) -> None:
    folder = CheckpointFolder(tmp_path, keep)
    (tmp_path / ".step-000000001.safetensors.99.tmp").write_text("half")
    for step in range(1, 6):
        folder.save(step, Run(step).to_save())
        if step == 4:
            (tmp_path / "step-000000002.sha256").write_text("left alone")
    assert steps_in(tmp_path) == names(*range(6 - keep, 6))


def test_the_same_step_is_written_anew(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, Run(1).to_save())
    damage(tmp_path, 1)
    folder.save(1, Run(1).to_save())
    found = folder.load()
    assert found is not None and (found.step, found.state["w"].tolist()) == (1, [1.0] * 4)


def test_damage_is_said_and_so_is_what_is_used_in_its_place(tmp_path: Path, said) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3):
        folder.save(step, Run(step).to_save())
    cut = damage(tmp_path, 3)
    (tmp_path / "step-000000002.sha256").unlink()
    found = folder.load()
    assert found is not None and found.step == 1
    assert said() == [
        f"ERROR DAMAGED checkpoint {cut}: its bytes are not the ones that were written (manifest and content differ); "
        "it is not used",
        f"ERROR DAMAGED checkpoint {tmp_path}/step-000000002.safetensors: it has no manifest; it is not used",
        "ERROR going back to the checkpoint step-000000001.safetensors",
    ]
    damage(tmp_path, 1)
    with pytest.raises(TrainingFailed) as caught:
        folder.load()
    assert str(caught.value) == (f"{tmp_path}: all 3 checkpoints are damaged; remove the run folder to begin anew")


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, said) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.save(1, Run(1).to_save())
    (tmp_path / "step-000000002.safetensors").mkdir()
    found = folder.load()
    assert found is not None and found.step == 1 and "it cannot be read (" in said()[0]


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(4, Run(4).to_save())
    path = tmp_path / "step-000000004.safetensors"
    for metadata, told in (({"run": json.dumps({"format": "run-state-9"})}, "run-state-9"), (None, "None")):
        data = safetensors.torch.save({"0": torch.zeros(1)}, metadata=metadata)
        path.write_bytes(data)
        path.with_suffix(".sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        with pytest.raises(TrainingFailed) as caught:
            folder.load()
        assert str(caught.value) == f"{path}: written by another version ({told}, this one reads run-state-1)"


def test_damaged_ones_go_aside_with_their_manifests_and_half_files(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "none", keep=2)
    folder.set_damaged_aside()  # there is no folder yet
    folder.leave_one()
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2):
        folder.save(step, Run(step).to_save())
    cut = damage(tmp_path, 2)
    (tmp_path / ".half.tmp").write_text("half")
    folder.set_damaged_aside()
    assert steps_in(tmp_path) == sorted([*names(1), f"{cut.name}.damaged"])
    folder.save(3, Run(3).to_save())
    (tmp_path / "step-000000003.sha256").unlink()  # damage, too
    folder.set_damaged_aside()
    assert steps_in(tmp_path) == sorted([*names(1), f"{cut.name}.damaged", "step-000000003.safetensors.damaged"])


def test_an_old_one_without_its_manifest_goes_as_the_others(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, Run(1).to_save())
    (tmp_path / "step-000000001.sha256").unlink()
    folder.save(2, Run(2).to_save())
    assert steps_in(tmp_path) == names(2)


def test_room_is_made_by_all_but_the_newest_that_is_whole(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=9)
    for step in (1, 2, 3, 4):
        folder.save(step, Run(step).to_save())
    damage(tmp_path, 4)
    folder.leave_one()
    assert steps_in(tmp_path) == names(3, 4)


def test_a_state_is_saved_every_so_many_steps(tmp_path: Path) -> None:
    saver = CheckpointSaver(CheckpointFolder(tmp_path, keep=9), every=3, saved=0)
    assert [step for step in range(1, 10) if saver.due(step)] == [3, 6, 9]
    saver.save(Run(3))  # type: ignore[arg-type]
    assert saver.saved == 3 and steps_in(tmp_path) == names(3)
    found = CheckpointFolder(tmp_path, keep=9).load()
    assert found is not None and found.state["w"].tolist() == [3.0] * 4
    other = CheckpointSaver(None, every=3)
    other.save(Run(3))  # type: ignore[arg-type]
    other.insist(Run(4), 1.0)  # type: ignore[arg-type]
    assert other.saved == 0


def test_after_a_failure_it_is_tried_again_after_1_2_4_steps_and_no_later_than_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said
) -> None:
    full = True
    kept = checkpoint.write_atomic

    def write(path: Path, data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        kept(path, data)

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    saver = CheckpointSaver(CheckpointFolder(tmp_path, keep=9), every=5)
    tried = []
    for step in range(5, 30):
        full = step < 22
        if saver.due(step):
            tried.append(step)
            saver.save(Run(step))  # type: ignore[arg-type]
    # after 5: +1, +2, +4, then +5 and no more; 10, 15, 20 are due anyway
    assert tried == [5, 6, 8, 10, 15, 20, 25] and saver.saved == 25
    lines = said()
    assert lines[0] == (
        "ERROR CANNOT SAVE the checkpoint of step 5: [Errno 28] No space left on device; training goes on, the earlier "
        "checkpoints are intact, next try after step 6"
    )
    assert [line.rpartition(" ")[2] for line in lines[:-1]] == ["6", "8", "12", "15", "20", "25"]
    assert lines[-1] == "WARNING saving works again, step 25 is saved"
    saver.save(Run(30))  # type: ignore[arg-type]
    assert len(said()) == len(lines) and not saver.due(31)
    full = True
    saver.save(Run(35))  # type: ignore[arg-type]
    assert saver.due(36)  # the waits begin anew


def test_the_last_state_is_insisted_on_and_the_older_ones_make_room(tmp_path: Path, clock: Clock) -> None:
    folder = CheckpointFolder(tmp_path, keep=9)
    for step in (1, 2):
        folder.save(step, Run(step).to_save())
    saver = CheckpointSaver(folder, every=100, saved=2)
    saver.insist(Run(2), 1.0)  # type: ignore[arg-type]
    assert steps_in(tmp_path) == names(1, 2)
    saver.insist(Run(3), 1.0)  # type: ignore[arg-type]
    assert steps_in(tmp_path) == names(2, 3) and saver.saved == 3
    found = folder.load()
    assert found is not None and found.state["w"].tolist() == [3.0] * 4


def test_a_last_state_that_cannot_be_saved_names_what_is_kept(tmp_path: Path, clock, monkeypatch) -> None:
    saver = CheckpointSaver(CheckpointFolder(tmp_path, keep=9), every=100, saved=2)

    def refuse(*_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(checkpoint, "write_atomic", refuse)
    with pytest.raises(TrainingFailed) as caught:
        saver.insist(Run(3), 0.0)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "cannot write the checkpoint of step 3: full; its state of step 2 is kept: make room and start the same "
        "command again"
    )
    assert saver.saved == 2


@pytest.mark.parametrize("failures", [0, 1, 8])
def test_waits_for_the_disk_double_up_to_a_minute(clock: Clock, said, failures: int) -> None:
    left = failures

    def write() -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError("full")

    insist_on_writing("the end", write, 1000.0, "all is kept")
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0][:failures]
    wanted = [f"ERROR CANNOT WRITE the end: full; next try in {wait:.0f} s" for wait in clock.slept]
    assert said() == wanted


def test_waiting_ends_when_the_time_is_up(clock: Clock) -> None:
    def refuse() -> None:
        raise OSError("full")

    with pytest.raises(TrainingFailed, match=r"^cannot write the end: full; all is kept: make room"):
        insist_on_writing("the end", refuse, 7.0, "all is kept")
    assert clock.slept == [1.0, 2.0, 4.0]  # the fourth try is still in time


def test_what_can_wait_is_tried_once(said) -> None:
    done: list[int] = []
    assert try_writing("a file", lambda: done.append(1)) is True and done == [1] and said() == []

    def refuse() -> None:
        raise OSError("full")

    assert try_writing("a file", refuse) is False
    assert said() == ["ERROR CANNOT WRITE a file: full; training goes on"]
