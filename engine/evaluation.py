"""Evaluate a weight file: what ``eval_cls.py`` does."""

from pathlib import Path
from typing import Any

from engine import signals
from engine.config import Config
from engine.distributed import join_world
from engine.errors import ConfigError, RunStopped, TrainingFailed
from engine.evaluate import EvaluationFailed, EvaluationStopped, evaluate
from engine.labels import build_judge
from engine.logs import set_up_text_log
from engine.setup import build_evaluation_loader, place, plain_model, prepare_torch, user_input
from engine.watchdog import Watchdog
from engine.weights import file_hash
from models.checkpoint import convert_state, load_pretrained, read_weights


def evaluate_checkpoint(config: Config, checkpoint: Path) -> dict[str, Any] | None:
    """Accuracy of the weights in ``checkpoint`` on the validation set of ``config``.

    Returns:
        On rank 0 the accuracy in percent, the exact counts, and what was evaluated; None on the other ranks.

    Raises:
        ConfigError: config, data or checkpoint cannot be used, or the weights are of another model.
        RunStopped: a signal came.
        TrainingFailed: an image cannot be read.
    """
    stop = signals.watch()
    prepare_torch(config)
    world = join_world(config.train.device, config.train.timeout)
    set_up_text_log(None, world.rank)
    watchdog = Watchdog(world, config.train.timeout)
    try:
        loader = build_evaluation_loader(config, world)
        judge = build_judge(config.eval.labels, loader, config.model.num_classes, world.device)
        model = plain_model(config)
        with user_input("--checkpoint"):
            report = load_pretrained(model, convert_state(read_weights(checkpoint)))
        if report.replaced_head:
            raise ConfigError(f"--checkpoint: {checkpoint}: its classifier does not fit: {report.replaced_head}")
        model = place(model, config, world)
        stop.defer()
        accuracy = evaluate(model, loader, judge, world, config.train, stop, watchdog.at)
    except EvaluationStopped:
        raise RunStopped("stopped by a signal in evaluation; nothing to save") from None
    except EvaluationFailed as error:
        raise TrainingFailed(str(error)) from error
    finally:
        watchdog.close()
        stop.act_at_once()
        world.close()
    if not world.is_main:
        return None
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "correct1": accuracy.correct1,
        "correct5": accuracy.correct5,
        "images": accuracy.images,
        "labels": config.eval.labels,
        "model": config.model.name,
        "dataset": loader.dataset_name,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": file_hash(checkpoint),
        "seconds": accuracy.seconds,
        "ranks": world.size,
    }
