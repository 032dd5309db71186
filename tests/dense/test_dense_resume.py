"""A run that was killed and goes on ends with the weights of the run that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.dense.test_dense_runs import CONFIGS, ROOT, SHORT

pytestmark = pytest.mark.dense


def command(task: str, scenes: Path, work: Path, *, workers: int, resume: bool) -> list[str]:
    loader = [f"train_dataloader.{key}" for key in (f"num_workers={workers}", "batch_size=4")]
    loader += [f"{split}_dataloader.num_workers=0" for split in ("val", "test")]
    loader += [f"{split}_dataloader.persistent_workers=False" for split in ("val", "test")]
    loader += [] if workers else ["train_dataloader.persistent_workers=False"]
    length = 3 if task == "detection" else 12
    short = [option.format(length) for option in SHORT[task]] + ["model.backbone.drop_path_rate=0.3"]
    if task == "segmentation":
        short = [
            option.replace("val_interval=2", "val_interval=5").replace("interval=2", "interval=3") for option in short
        ]
    chosen = [option.replace("model.backbone.drop", "+model.backbone.drop") for option in short]
    return [
        sys.executable, f"{task}/train.py", CONFIGS[task], "--data-root", str(scenes), "--work-dir", str(work),
        "--scale-lr", *(["--resume"] if resume else []), "--cfg-options", *loader, *chosen,
    ]  # fmt: skip


def run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def last_weights(work: Path) -> dict[str, torch.Tensor]:
    return torch.load((work / "last_checkpoint").read_text(), weights_only=True)["state_dict"]


@pytest.mark.parametrize(("task", "workers"), [("detection", 0), ("segmentation", 2)])
def test_a_killed_run_ends_as_the_whole_one(task: str, workers: int, scenes: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(command(task, scenes, whole, workers=workers, resume=False))
    process = subprocess.Popen(
        command(task, scenes, broken, workers=workers, resume=False), cwd=ROOT, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (broken / "last_checkpoint").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    run(command(task, scenes, broken, workers=workers, resume=True))
    left, right = last_weights(whole), last_weights(broken)
    assert left.keys() == right.keys()
    differing = [key for key, value in left.items() if not torch.equal(value, right[key])]
    assert differing == []
    assert (broken / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()  # the curve, too
    assert "changed" not in (broken / "config.yaml").read_text()
