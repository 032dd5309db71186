"""How a rank ends: together with the others it leaves the process group, alone it says why and goes at once."""

import sys
from pathlib import Path

import pytest
import torch

import eval_cls
from engine import cli
from engine.distributed import World, leaving
from engine.errors import EXIT_FAILURE, RunStopped, TrainingFailed
from models.errors import UserError

TWO = {"WORLD_SIZE": "2", "RANK": "1"}


class Noted(World):
    """Notes that the group is taken apart, which on GPUs waits for all ranks."""

    def close(self) -> None:
        print("left")


@pytest.mark.parametrize(
    ("end", "left"), [(None, True), (RunStopped("a signal"), True), (TrainingFailed("no disk"), False),
                      (torch.OutOfMemoryError("no memory"), False), (UserError("no file"), False)],
)  # fmt: skip
def test_the_group_is_taken_apart_where_all_ranks_end_alike(end: Exception | None, left: bool, capsys) -> None:
    def block() -> None:
        with leaving(Noted(1, 2, torch.device("cpu"))):
            if end is not None:
                raise end

    if end is None:
        block()
    else:
        with pytest.raises(type(end)):
            block()
    assert capsys.readouterr().out == "left\n" * left


class Gone(BaseException):
    """The process has ended."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses that a rank of two ends with at once."""
    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        raise Gone

    for key, value in TWO.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("os._exit", leave)
    return statuses


def test_an_unforeseen_error_of_one_rank_is_told_before_anything_can_wait(exits: list[int], capsys) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("1.5 GiB were asked for")

    with pytest.raises(Gone):
        cli.run(fails)
    assert exits == [EXIT_FAILURE]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("OutOfMemoryError: 1.5 GiB were asked for")


def test_an_evaluation_takes_any_number_of_ranks(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    """1024 images of a training step do not divide by seven, and nothing is trained."""
    asked: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "7")
    monkeypatch.setattr("engine.evaluate.examine", lambda config, _: asked.append(config.train.batch_size))
    config = repo / "configs/imagenet/dw_conv_tiny.yaml"
    monkeypatch.setattr(sys, "argv", ["eval_cls.py", "--config", str(config), "--checkpoint", "dw_conv_tiny"])
    assert cli.run(eval_cls.main) == 0 and asked == [1024]
