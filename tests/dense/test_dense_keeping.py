"""What a dense run keeps when a disk is full, a kill comes at a bad moment, or it goes on in another way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from engine.dense.launch import train
from engine.dense.weights import read_checkpoint, read_model
from models.errors import UserError
from tests.dense.test_dense_runs import CONFIGS, ROOT, losses, options

pytestmark = pytest.mark.dense
SEGMENTATION = CONFIGS["segmentation"]


def go(scenes: Path, work: Path, length: int, *more: str) -> None:
    """Train or go on; one checkpoint is kept."""
    train("segmentation", [SEGMENTATION, "--resume", *options("segmentation", scenes, work, length), *more])


def lines(work: Path) -> list[int]:
    """The iterations whose validation is written down."""
    return [json.loads(line)["iteration"] for line in (work / "log.jsonl").read_text().splitlines()]


def test_a_full_disk_leaves_the_checkpoint_before(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(scenes, tmp_path, 2)
    save = Runner.save_checkpoint

    def half(self: Runner, folder: str, name: str, *rest: object, **options: object) -> None:
        save(self, folder, name, *rest, **options)
        path = Path(folder, name)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Runner, "save_checkpoint", half)
        go(scenes, tmp_path, 4)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_2.pth"] and not list(tmp_path.glob(".*.partial"))
    go(scenes, tmp_path, 4)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_4.pth"]  # of before the stop, none stays either
    assert lines(tmp_path) == [2, 4]


def test_a_validation_that_was_cut_off_is_made_up(scenes: Path, tmp_path: Path) -> None:
    """The checkpoint of iteration 2 is there, its line is not."""
    go(scenes, tmp_path, 2)
    (whole,) = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    (tmp_path / "log.jsonl").write_text("")
    go(scenes, tmp_path, 4)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert lines(tmp_path) == [2, 4] and first == whole


def test_other_images_in_an_iteration_are_no_way_to_go_on(scenes: Path, tmp_path: Path) -> None:
    go(scenes, tmp_path, 2)
    with pytest.raises(UserError, match="begun with 4 images an iteration over all processes, now it has 2"):
        go(scenes, tmp_path, 4, "train_dataloader.batch_size=2")


def test_an_epoch_that_a_checkpoint_ends_is_not_trained_again(scenes: Path, tmp_path: Path) -> None:
    """Checkpoints by iterations, in a loop of epochs: the last one of an epoch still names that epoch."""
    by_iteration = ["+default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=4"]
    for epochs, steps in ((1, 4), (2, 8), (2, 8)):
        arguments = options("detection", scenes, tmp_path, epochs)
        train("detection", [CONFIGS["detection"], "--resume", *arguments, *by_iteration])
        assert read_checkpoint((tmp_path / "last_checkpoint").read_text())["meta"]["iter"] == steps
        assert len(losses(tmp_path)) == steps


def test_two_processes_share_a_batch_and_validate_the_network_that_is_saved(scenes: Path, tmp_path: Path) -> None:
    """torchrun with two ranks over gloo on the CPU. Each normalises by its own images; the running statistics become
    their mean, as a classifier's do.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    places = options("segmentation", scenes, tmp_path / "two", 2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    code = (
        "import runpy, sys, torch; sys.argv = sys.argv[1:]\n"
        "from engine.dense import hooks\n"
        "seen = hooks.ResultHook.after_val_epoch\n"
        "def after(self, runner, metrics=None):\n"
        "    seen(self, runner, metrics)\n"
        "    values = {k: v for k, v in runner.model.module.state_dict().items() if 'running' in k}\n"
        f"    torch.save(values, {str(tmp_path)!r} + f'/rank{{torch.distributed.get_rank()}}.pt')\n"
        "hooks.ResultHook.after_val_epoch = after\n"
        f"runpy.run_path({str(ROOT / 'segmentation/train.py')!r}, run_name='__main__')\n"
    )
    script = tmp_path / "watched.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    command += [str(script), "train.py", SEGMENTATION, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    work = tmp_path / "two"
    assert len(losses(work)) == 2 and json.loads((work / "result.json").read_text())["metrics"]["mIoU"] >= 0
    state, meta = read_model(work / "iter_2.pth")
    assert meta["iter"] == 2 and all(value.isfinite().all() for value in state.values())
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    saved = read_checkpoint((work / "last_checkpoint").read_text())["state_dict"]
    assert len(one) > 4
    for key, value in one.items():
        assert torch.equal(value, two[key]) and torch.equal(value, saved[key]), key
