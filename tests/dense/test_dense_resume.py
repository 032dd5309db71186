"""A run that was killed and goes on ends with the weights of the run that was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.dense.test_dense_runs import CONFIGS, ROOT, SHORT

pytestmark = pytest.mark.dense


def command(task: str, scenes: Path, workers: int) -> list[str]:
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
    return [CONFIGS[task], "--data-root", str(scenes), "--scale-lr", "--cfg-options", *loader, *chosen]


def last_weights(work: Path) -> dict[str, torch.Tensor]:
    return torch.load((work / "last_checkpoint").read_text(), weights_only=True)["state_dict"]


@pytest.mark.parametrize(("task", "workers"), [("detection", 0), ("segmentation", 2)])
def test_a_killed_run_ends_as_the_whole_one(task: str, workers: int, scenes: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs = [sys.executable, str(Path(__file__).with_name("killed_run.py")), task, str(whole), str(broken)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*runs, *command(task, scenes, workers)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    left, right = last_weights(whole), last_weights(broken)
    assert left.keys() == right.keys()
    differing = [key for key, value in left.items() if not torch.equal(value, right[key])]
    assert differing == []
    assert (broken / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()  # the curve, too
    assert "changed" not in (broken / "config.yaml").read_text()
