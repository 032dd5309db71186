"""What a run reports is what happened: each number against what it is made of."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from engine_evaluation import evaluate_checkpoint
from safetensors.torch import load_file
from torch import nn

from engine import trainer
from engine.checkpoint import CheckpointFolder
from engine.config import load_config, to_dict
from engine.logs import Trackers
from engine.optim import build_optimizer, build_schedule
from engine.run import train
from engine.schema import TrainConfig
from engine.weights import read_about
from models.errors import UserError
from tests.faults.small_run import SmallRuns

BATCH, STEPS = 12, 3  # of the small runs: 40 images, 12 a step


@pytest.fixture(scope="module")
def reported(small_runs: SmallRuns) -> tuple[Path, float]:
    """A run whose best epoch is not its last, with TensorBoard; and the seconds that it took."""
    output = small_runs.folder()
    began = time.monotonic()
    small_runs.finish(output, ["train.tensorboard=true", "train.lr=0.5", "train.epochs=5", "train.ema_decay=null"])
    return output, time.monotonic() - began


def log_of(output: Path, kind: str) -> list[dict]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def test_the_best_weights_are_those_of_the_best_epoch(small_runs: SmallRuns, reported) -> None:
    output, _ = reported
    result = json.loads((output / "result.json").read_text())
    scores = [record["top1"] for record in log_of(output, "epoch")]
    best = scores.index(max(scores)) + 1  # the first of several
    assert max(scores) > scores[-1], "this run's last epoch is its best: the test needs another"
    assert (result["best_top1"], result["best_epoch"], result["top1"]) == (max(scores), best, scores[-1])
    assert read_about(output / "best.safetensors")["epoch"] == best
    config = load_config(small_runs.config, [], world_size=1)
    for name, wanted in (("best", max(scores)), ("last", scores[-1])):
        found = evaluate_checkpoint(config, output / f"{name}.safetensors")
        assert found is not None and found.top1 == wanted


def test_speed_is_images_by_seconds(reported) -> None:
    output, wall = reported
    steps = log_of(output, "step")
    assert len(steps) == 5 * STEPS
    for record in steps:
        assert record["images_per_second"] * record["step_seconds"] == pytest.approx(BATCH)
        assert 0 <= record["data_seconds"] <= record["step_seconds"]
    result = json.loads((output / "result.json").read_text())
    assert result["train_seconds"] == pytest.approx(sum(record["step_seconds"] for record in steps))
    assert result["train_seconds"] < wall
    assert result["images_per_second"] * result["train_seconds"] == pytest.approx(5 * STEPS * BATCH)
    left = [record["eta_seconds"] / record["step_seconds"] for record in steps]
    assert left == pytest.approx(list(range(5 * STEPS - 1, -1, -1)))


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(reported) -> None:
    output, _ = reported
    steps = log_of(output, "step")
    for record in log_of(output, "epoch"):
        own = [step["loss"] for step in steps if step["epoch"] == record["epoch"]]
        assert len(own) == STEPS and record["train_loss"] == pytest.approx(sum(own) / STEPS)


def test_tensorboard_has_the_metrics_of_the_log_and_nothing_else(reported) -> None:
    """Not the number of an epoch, the time left or the count of validation images, which are no metrics."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output, _ = reported
    board = EventAccumulator(str(output / "tensorboard"))
    board.Reload()
    wanted: dict[str, list[tuple[int, float]]] = {}
    for record in [*log_of(output, "step"), *log_of(output, "epoch")]:
        for key, value in record.items():
            if key not in ("kind", "step", "epoch", "eta_seconds", "images") and value is not None:
                wanted.setdefault(f"{record['kind']}/{key}", []).append((record["step"], value))
    assert set(board.Tags()["scalars"]) == set(wanted) and len(wanted) > 10
    for tag, points in wanted.items():
        found = [(event.step, event.value) for event in board.Scalars(tag)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


def test_tensorboard_has_the_hyper_parameters(tmp_path: Path, small_runs: SmallRuns) -> None:
    """Read by the plugin's own message, as its page reads them; no run of its own beside the scalars."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = load_config(small_runs.config, ["train.lr=0.5", "train.ema_decay=null", f"output={tmp_path}"])
    trackers = Trackers(tmp_path, True, None, to_dict(config), 0)
    trackers.close()
    assert [path.parent for path in tmp_path.rglob("events*")] == [tmp_path / "tensorboard"]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    kept = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(kept).session_start_info.hparams
    assert values["train.lr"].number_value == 0.5 and values["train.ema_decay"].string_value == "None"
    assert values["data.mean"].string_value == str(to_dict(config)["data"]["mean"])
    assert values["model.name"].string_value == config.model.name and values["train.save_ema"].number_value == 1
    shown = HParamsPluginData.FromString(board.SummaryMetadata("_hparams_/experiment").plugin_data.content).experiment
    assert {info.name.tag for info in shown.metric_infos} == {"epoch/top1", "epoch/train_loss"}
    assert board.Tags()["scalars"] == []


@pytest.mark.parametrize("averaged", [True, False])
def test_the_average_is_saved_and_measured_where_that_is_asked(
    small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch, averaged: bool
) -> None:
    output, seen = small_runs.folder(), []
    options = ["train.epochs=1", "train.warmup_epochs=0", f"train.save_ema={averaged}", f"eval.ema={averaged}"]
    config = load_config(small_runs.config, [*options, f"output={output}"], world_size=1)
    original = trainer.evaluate

    def evaluate(model: nn.Module, *rest, **options):
        seen.append(model.state_dict()["head.weight"].clone())
        return original(model, *rest, **options)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    train(config)
    checkpoint = CheckpointFolder(output / "checkpoints", keep=2).load()
    assert checkpoint is not None
    plain, average = checkpoint.state["model"]["head.weight"], checkpoint.state["ema"]["head.weight"]
    assert not torch.equal(plain, average)
    assert torch.equal(seen[-1], average if averaged else plain)
    assert torch.equal(load_file(output / "last.safetensors")["head.weight"], average if averaged else plain)
    assert read_about(output / "last.safetensors")["averaged"] is averaged


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("eval.ema", "eval.ema=false evaluates the plain weights, train.save_ema=true saves the averaged ones"),
        ("train.save_ema", "eval.ema=true evaluates the averaged weights, train.save_ema=false saves the plain ones"),
    ],
)
def test_what_is_measured_is_what_is_saved(small_runs: SmallRuns, key: str, said: str) -> None:
    with pytest.raises(UserError, match=f"{said}: set both alike"):
        load_config(small_runs.config, [f"{key}=false"], world_size=1)
    load_config(small_runs.config, [f"{key}=false", "train.ema_decay=null"], world_size=1)


@pytest.mark.parametrize("prefix", [False, True])
def test_the_decay_begins_after_the_warm_up_where_that_is_asked(prefix: bool) -> None:
    """A cosine over the whole run, the warm-up laid over its beginning (Swin); or over what follows the warm-up."""
    steps, warm, epochs, high, low = 10, 2, 8, 1e-3, 1e-5
    train = TrainConfig(
        epochs=epochs, lr=high, min_lr=low, warmup_lr=1e-4, warmup_epochs=warm, warmup_prefix=prefix, lr_batch=None
    )
    optimizer = build_optimizer(nn.Linear(2, 2), train)
    schedule = build_schedule(optimizer, train, steps)
    for number in (0, 7, 19, 20, 33, 60, 79):
        schedule.step_update(number)
        first, length = (warm * steps, (epochs - warm) * steps) if prefix else (0, epochs * steps)
        wanted = low + (high - low) * (1 + math.cos(math.pi * (number - first) / length)) / 2
        if number < warm * steps:
            wanted = 1e-4 + (high - 1e-4) * number / (warm * steps)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted), number
