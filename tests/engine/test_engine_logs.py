"""What a run says and writes down: lines, records, boards, the bar."""

import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import logs
from engine.logs import LOG, Bar, RecordLog, Trackers, check_wandb, duration, set_up_text_log
from engine.records import EpochRecord, StepRecord
from models.errors import UserError


def step_record(step: int, epoch: int = 1, **changes: Any) -> StepRecord:
    values = {"loss": 2.5, "lr": 0.1, "grad_norm": None, "images_per_second": 8.0, "step_seconds": 0.5}
    values |= {"data_seconds": 0.125, "memory_gib": 1.0, "eta_seconds": 60.0}
    return StepRecord(step=step, epoch=epoch, **(values | changes))


def epoch_record(epoch: int, step: int) -> EpochRecord:
    return EpochRecord(epoch=epoch, step=step, skipped=0, train_loss=None, replaced_images=2, top1=12.5)


@pytest.fixture
def quiet_log() -> Any:
    """The logger as it was before the test."""
    before = list(LOG.handlers), LOG.propagate, LOG.level
    yield LOG
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    LOG.handlers[:], LOG.propagate, LOG.level = before


def test_rank_0_says_everything_on_the_screen_and_in_the_file(tmp_path: Path, quiet_log, capsys) -> None:
    for _ in range(2):  # as a second run in one process: each line stands once
        set_up_text_log(tmp_path, 0)
    logging.getLogger("engine.trainer").info("größer")
    logging.getLogger("engine.trainer").debug("unsaid")
    LOG.warning("beware")
    assert capsys.readouterr().err == "größer\nbeware\n"
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO größer", "WARNING beware"]
    assert lines[0][:2] == "20" and lines[0][4] == lines[0][7] == "-"  # begins with the date
    assert LOG.propagate is False


def test_the_file_is_begun_by_the_first_line(tmp_path: Path, quiet_log) -> None:
    set_up_text_log(tmp_path, 0)
    assert not (tmp_path / "train.log").exists()


def test_other_ranks_say_errors_only_with_their_number_and_write_nothing(tmp_path: Path, quiet_log, capsys) -> None:
    set_up_text_log(tmp_path, 3)
    LOG.warning("beware")
    LOG.error("broken")
    assert capsys.readouterr().err == "[rank 3] broken\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_there_is_no_file(tmp_path: Path, quiet_log, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up_text_log(None, 0)
    LOG.info("said")
    assert capsys.readouterr().err == "said\n" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["text", "records"])
def test_files_are_utf8_wherever_the_machine_stands(tmp_path: Path, quiet_log, monkeypatch, write: str) -> None:
    """As under LANG=C: what is opened without an encoding is ASCII."""
    original = io.open

    def ascii_open(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *rest: Any, **more: Any
    ):
        known = encoding if encoding not in (None, "locale") or "b" in mode else "ascii"
        return original(file, mode, buffering, known, *rest, **more)

    monkeypatch.setattr("io.open", ascii_open)
    monkeypatch.setattr("builtins.open", ascii_open)
    path = tmp_path / ("train.log" if write == "text" else "log.jsonl")
    if write == "text":
        set_up_text_log(tmp_path, 0)
        LOG.info("größer")
        assert path.read_bytes().endswith("größer\n".encode())
        return
    path.write_bytes(
        '{"kind": "step", "step": 1, "name": "ß"}\n'.encode() + b'{"kind": "\xff\n{"kind": "step", "step": 2}\n'
    )
    RecordLog(path).cut_back(2, 0)  # the line that is broken is left out, those after it are not
    assert path.read_bytes() == '{"kind": "step", "step": 1, "name": "ß"}\n{"kind": "step", "step": 2}\n'.encode()


def test_a_full_disk_costs_the_line_and_not_the_run(tmp_path: Path, quiet_log, capsys) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    set_up_text_log(tmp_path, 0)
    LOG.info("said")
    assert capsys.readouterr().err == "said\n"
    LOG.handlers[1].stream = None  # what it could not write is not tried again at the end


def test_records_are_appended_as_lines(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "log.jsonl")
    log.write(step_record(1))
    log.write(epoch_record(1, 1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [step_record(1).to_json(), epoch_record(1, 1).to_json()]


def test_a_log_is_cut_back_to_the_checkpoint_that_the_run_goes_on_from(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "log.jsonl")
    log.cut_back(0, 0)
    assert not log.path.exists()
    for record in (step_record(1), step_record(2), epoch_record(1, 2), step_record(3, 2), step_record(4, 2)):
        log.write(record)
    log.write(epoch_record(2, 4))
    with log.path.open("a") as file:
        file.write('{"kind": "step", "st')
    log.cut_back(3, 1)
    kept = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in kept] == [
        *[("step", 1), ("step", 2), ("epoch", 2)],
        ("step", 3),
    ]
    log.cut_back(2, 0)  # the epoch's steps are done, its evaluation is not
    kept = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in kept] == [("step", 1), ("step", 2)]


def test_a_log_that_cannot_be_written_is_said_once_until_it_works_again(tmp_path: Path, engine_log) -> None:
    path = tmp_path / "away" / "log.jsonl"
    log = RecordLog(path)
    for _ in range(2):
        log.write(step_record(1))
    path.parent.mkdir()
    log.write(step_record(2))
    path.unlink()
    path.parent.rmdir()
    log.write(step_record(3))
    said = [record.getMessage() for record in engine_log.records]
    missing = f"[Errno 2] No such file or directory: '{path}'"
    assert said == [f"CANNOT WRITE {path}: {missing}; training goes on"] * 2


class Board:
    """A board that notes what it is asked, and fails where that is wanted."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[tuple] = []
        self.broken = broken

    file_writer = SimpleNamespace(add_summary=lambda summary: None)

    def __getattr__(self, name: str) -> Any:
        def call(*values: Any, **options: Any) -> None:
            self.calls.append((name, *values, *options.items()))
            if name == self.broken:
                raise RuntimeError("out of order")

        return call


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> tuple[Board, dict]:
    """A package wandb, and what its run was begun with."""
    board, begun = Board(), {}

    def init(**options: Any) -> Board:
        begun.update(options)
        return board

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=SimpleNamespace(name="wandb")))
    return board, begun


def test_wandb_gets_every_number_at_its_step(tmp_path: Path, wandb) -> None:
    board, begun = wandb
    (tmp_path / "run7").mkdir()
    trackers = Trackers(tmp_path / "run7", False, "project", {"a": 1}, step=0)
    name = "run7"
    wanted = {"project": "project", "name": name, "dir": str(tmp_path / name), "config": {"a": 1}}
    assert begun == wanted | {"resume": "allow", "id": begun["id"]}
    trackers.write(step_record(5))
    trackers.write(epoch_record(2, 6))
    trackers.close()
    numbers = {"loss": 2.5, "lr": 0.1, "images_per_second": 8.0, "step_seconds": 0.5, "data_seconds": 0.125}
    numbers |= {"memory_gib": 1.0}
    assert board.calls == [
        ("log", {f"step/{key}": value for key, value in numbers.items()}, ("step", 5)),
        ("log", {"epoch/skipped": 0, "epoch/replaced_images": 2, "epoch/top1": 12.5}, ("step", 6)),
        ("finish",),
    ]


def test_wandb_tells_runs_of_one_name_apart_and_knows_a_run_again(tmp_path: Path, wandb) -> None:
    ids = []
    for folder in ("a/seed0", "b/seed0", "a/seed0"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Trackers(tmp_path / folder, False, "project", {}, step=0).close()
        ids.append(wandb[1]["id"])
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(("step", "purged"), [(0, None), (9, 10)])
def test_tensorboard_forgets_what_lies_after_the_checkpoint(tmp_path: Path, monkeypatch, step: int, purged) -> None:
    board, begun = Board(), []

    def writer(*values: Any, **options: Any) -> Board:
        begun.append((values, options))
        return board

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", writer)
    trackers = Trackers(tmp_path, True, None, {}, step)
    assert begun == [((str(tmp_path / "tensorboard"),), {"purge_step": purged})]
    trackers.write(EpochRecord(epoch=1, step=3, skipped=0, train_loss=2.0, replaced_images=0))
    trackers.write(step_record(4, loss=None, lr=0.5))
    assert board.calls[:2] == [
        ("add_scalar", "epoch/skipped", 0, 3),
        ("add_scalar", "epoch/train_loss", 2.0, 3),
    ]
    assert board.calls[3:5] == [("flush",), ("add_scalar", "step/lr", 0.5, 4)]
    assert board.calls.count(("flush",)) == 1  # once an epoch
    trackers.close()
    assert board.calls[-1] == ("close",)


@pytest.mark.parametrize("broken", ["log", "finish"])
def test_a_board_that_fails_is_given_up_loudly(tmp_path: Path, wandb, engine_log, broken: str) -> None:
    board, _ = wandb
    board.broken = broken
    trackers = Trackers(tmp_path, False, "project", {}, 0)
    for step in (1, 2):
        trackers.write(step_record(step))
    trackers.close()
    asked = [call[0] for call in board.calls]
    said = [record.getMessage() for record in engine_log.records]
    assert asked == (["log"] if broken == "log" else ["log", "log", "finish"])
    wanted = "CANNOT WRITE to TensorBoard or W&B: out of order; no more is written there, training goes on"
    assert said == [wanted if broken == "log" else "cannot close TensorBoard or W&B: out of order"]


def test_without_boards_nothing_is_written(tmp_path: Path) -> None:
    trackers = Trackers(tmp_path, False, None, {}, 0)
    trackers.write(step_record(1))
    trackers.close()
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_asked_for_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None if name == "wandb" else name)
    check_wandb(None)
    with pytest.raises(UserError) as caught:
        check_wandb("project")
    assert str(caught.value) == (
        "train.wandb: the package wandb is not installed; pip install wandb, or leave the key out"
    )


@pytest.mark.parametrize(("shown", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch, capsys, shown: bool, terminal: bool) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bar = Bar(epoch=1, epochs=3, total=10, done=4, shown=shown)
    for _ in range(6):
        bar.step(loss="1.500")
    bar._bar.refresh()
    text = capsys.readouterr().err
    bar.close()
    if not (shown and terminal):
        assert text == ""
        return
    assert "epoch 2/3" in text and " 4/10" in text and "10/10" in text and "loss=1.500" in text and "step/s" in text
    assert capsys.readouterr().err.endswith("\r")  # the line is empty again


def test_a_bar_follows_the_terminal_and_is_drawn_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    class Drawn:
        disable = False

        def __init__(self, **options: Any) -> None:
            asked.append((options["dynamic_ncols"], options["leave"], options["disable"]))

        def set_postfix(self, values: dict[str, str], refresh: bool = True) -> None:
            asked.append((values, refresh))

        def update(self) -> None:
            asked.append(("drawn",))

    monkeypatch.setattr("tqdm.tqdm", Drawn)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Bar(epoch=0, epochs=1, total=2, done=0, shown=True).step(loss="1.5")
    assert asked == [(True, False, False), ({"loss": "1.5"}, False), ("drawn",)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00"), (59.9, "00:00:59"), (3600, "01:00:00"), (86399, "23:59:59"), (93784, "1d 02:03:04")],
)
def test_durations_are_written_as_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text
