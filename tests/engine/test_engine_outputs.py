"""best.safetensors and what result.json says of it, on a disk that refuses now and then."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from engine import outputs
from engine.config import load_config
from engine.evaluate import Accuracy
from engine.outputs import OutputWriter
from engine.state import Progress
from engine.weights import file_hash, read_about
from tests.faults.small_run import SmallRuns

MAIN = SimpleNamespace(is_main=True, size=1, device="cpu")


class Disk:
    """What `save_weights` writes to; it refuses the best weights of some epochs once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: set[int]) -> None:
        self.refused, self.write = refused, outputs.save_weights
        monkeypatch.setattr(outputs, "save_weights", self)
        monkeypatch.setattr(outputs.runfolder, "device_name", str)

    def __call__(self, path: Path, state: dict, about: dict) -> None:
        if path.name == "best.safetensors" and about["epoch"] in self.refused:
            self.refused.remove(about["epoch"])
            raise OSError(28, "No space left on device")
        self.write(path, state, about)


def finished(small_runs: SmallRuns, scores: list[float]) -> tuple[Path, Any]:
    """The run folder and the result of a run with these top-1 after its epochs."""
    output = small_runs.folder()
    output.mkdir(parents=True)
    config = load_config(small_runs.config, [f"output={output}"], world_size=1)
    writer = OutputWriter(config, MAIN, "images", ["a", "b"])
    model = nn.Linear(2, 2)
    state: Any = SimpleNamespace(progress=Progress(), model=model, ema=None, best_weights=lambda _: model)
    for epoch, top1 in enumerate(scores, start=1):
        state.progress.epoch = epoch
        writer.publish(state, Accuracy(images=100, correct1=round(top1), correct5=100))
    return output / "best.safetensors", writer.finish(state, seconds=1.0)


def test_the_best_weights_of_the_last_epoch_are_written_in_the_end(small_runs: SmallRuns, monkeypatch) -> None:
    Disk(monkeypatch, {2})
    best, result = finished(small_runs, [50.0, 60.0])
    assert read_about(best)["epoch"] == result.best_epoch == 2
    assert result.best_sha256 == file_hash(best)


def test_best_weights_that_were_lost_are_not_named(small_runs: SmallRuns, monkeypatch, engine_log) -> None:
    Disk(monkeypatch, {2})
    best, result = finished(small_runs, [50.0, 60.0, 55.0])
    assert (read_about(best)["epoch"], result.best_epoch, result.best_sha256) == (1, 2, None)
    said = engine_log.records[-1].getMessage()
    assert said.startswith("WARNING: the weights of the best epoch, 2, could not be written when it ended; ")
    assert said.endswith("best.safetensors holds those of epoch 1")
