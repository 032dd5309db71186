"""Exact accuracy: every image counts once, whatever the number of ranks; counters are integers."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data import Batch, EvalLoader
from data.classes import shown_names
from engine import signals
from engine.answers import Answers
from engine.build import build_evaluation_loader, place, plain_model, prepare_torch, user_input, with_num_classes
from engine.config import Config
from engine.distributed import World, join_world, leaving
from engine.errors import RunStopped, TrainingFailed
from engine.labels import Metric, build_metric
from engine.logs import duration, set_up_text_log
from engine.records import EvalResult
from engine.runfolder import device_name, git_commit
from engine.schema import TrainConfig
from engine.settings import evaluation_settings
from engine.signals import StopRequest
from engine.step import autocast, laid_out
from engine.watchdog import Watchdog
from engine.weights import file_hash, read_classes
from models.checkpoint import load_pretrained, read_for
from models.errors import UserError
from models.zoo import weights_file

LOG = logging.getLogger(__name__)
SAY_EVERY = 20.0  # seconds between lines on how far an evaluation is


@dataclass(frozen=True)
class Accuracy:
    """Counts over all ranks. ``images`` are those that have a label, which under ReaL labels are not all."""

    images: int
    correct1: int
    correct5: int
    seconds: float = 0.0

    @property
    def top1(self) -> float:
        """Percent of images whose highest logit is right."""
        return 100.0 * self.correct1 / max(1, self.images)

    @property
    def top5(self) -> float:
        """Percent of images with a right class among the five highest logits (all of them if there are fewer)."""
        return 100.0 * self.correct5 / max(1, self.images)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EvalLoader,
    metric: Metric,
    world: World,
    train: TrainConfig,
    stop: StopRequest | None = None,
    at: Callable[[str], None] = lambda where: None,
    precision: str = "fp32",
) -> Accuracy:
    """Count right answers over the whole set. The model's mode is the caller's again afterwards.

    Args:
        metric: decides which of the highest logits are right.
        stop: asked before each batch; all ranks stop at the same one.
        at: told before each batch where this rank is.
        precision: of the forward pass.

    Raises:
        RunStopped: a signal came, on any rank.
        TrainingFailed: a rank's loader failed.
    """
    began = said = time.monotonic()
    counts = torch.zeros(3, dtype=torch.int64, device=world.device)
    (rounds,) = world.largest(len(loader))
    was_training = model.training
    model.eval()
    batches = iter(loader)
    try:
        for number in range(rounds):  # a rank with fewer batches, or none, still takes part in every decision
            at(f"evaluation, batch {number}")
            batch, fault = _next(batches)
            at(f"evaluation, batch {number}, waiting for the other ranks")
            _decide(world, stop, fault)
            if batch is not None:
                counts += _count(model, batch, metric, world, train, precision)
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                left = (said - began) / (number + 1) * (rounds - number - 1)
                LOG.info("evaluation [%d/%d], %s left", number + 1, rounds, duration(left))
    finally:
        model.train(was_training)
        with contextlib.suppress(Exception):
            del batches
    images, correct1, correct5 = world.total(counts).tolist()
    return Accuracy(images, correct1, correct5, time.monotonic() - began)


def _next(batches: Iterator[Batch]) -> tuple[Batch | None, str | None]:
    try:
        return next(batches, None), None
    except Exception as error:  # any failure of a loader must reach the other ranks, which wait
        return None, f"{type(error).__name__}: {error}"


def _decide(world: World, stop: StopRequest | None, fault: str | None) -> None:
    stopped, failed = world.largest(int(bool(stop)), int(fault is not None))
    if failed:
        faults = [f"rank {rank}: {text}" for rank, text in enumerate(world.gather(fault)) if text]
        raise TrainingFailed("evaluation cannot read its images: " + "; ".join(faults))
    if stopped:
        raise RunStopped("stopped by a signal in evaluation; nothing to save")


def _count(model: nn.Module, batch: Batch, metric: Metric, world: World, train: TrainConfig, precision: str) -> Tensor:
    images = laid_out(batch.images.to(world.device, non_blocking=True), train)
    with autocast(precision, world):
        logits = model(images)
    return metric(logits.float(), batch.targets.to(world.device), batch.indices)


def examine(config: Config, checkpoint: Path) -> tuple[EvalResult, Answers] | None:
    """Accuracy of the weights in ``checkpoint`` on the validation set of ``config``, and the answer for each image.

    Args:
        checkpoint: a file, or the name of a model, for its released weights.

    Returns:
        On rank 0 the accuracy in percent, the exact counts, what was evaluated, and the answers; None on the other
        ranks.

    Raises:
        UserError: config, data or checkpoint cannot be used, or the weights are of another model.
        RunStopped: a signal came.
        TrainingFailed: an image cannot be read.
    """
    stop = signals.watch()
    with user_input("--checkpoint"):
        checkpoint = weights_file(checkpoint)
    config = with_num_classes(config, read_classes(checkpoint))
    prepare_torch(config)
    world = join_world(config.train.device, config.train.timeout)
    set_up_text_log(None, world.rank)
    try:
        with Watchdog(world, config.train.timeout) as watchdog, leaving(world):
            loader = _loader_for(checkpoint, config, world)
            metric = build_metric(config.eval.labels, loader, config.model.num_classes, world.device)
            answers = Answers(metric, loader, world.device)
            model, resized = _load(checkpoint, config)
            model = place(model, config, world)
            stop.defer()
            accuracy = evaluate(model, loader, answers, world, config.train, stop, watchdog.at, config.eval.precision)
            answers.share(world)
    finally:
        stop.act_at_once()
    if not world.is_main:
        return None
    return _result(config, checkpoint, loader, world, accuracy, answers, resized), answers


def _loader_for(checkpoint: Path, config: Config, world: World) -> EvalLoader:
    """The evaluation loader, whose labels are those of the weights' classes."""
    classes = read_classes(checkpoint)
    if classes is not None and len(classes) != config.model.num_classes:
        raise UserError(
            f"model.num_classes: {config.model.num_classes}, but {checkpoint} has {len(classes)} classes: "
            f"{shown_names(classes)}"
        )
    return build_evaluation_loader(config, world, classes)


def _load(checkpoint: Path, config: Config) -> tuple[nn.Module, list[str]]:
    """The model with the weights, and lines on what was resized."""
    model = plain_model(config)
    with user_input("--checkpoint"):
        report = load_pretrained(model, read_for(model, checkpoint))
    for line in report.resized:
        LOG.warning("WARNING: resized for this model, so the figure is not that of the weights: %s", line)
    if report.replaced_head:
        raise UserError(f"--checkpoint: {checkpoint}: its classifier does not fit: {report.replaced_head}")
    return model, report.resized


def _result(
    config: Config,
    checkpoint: Path,
    loader: EvalLoader,
    world: World,
    accuracy: Accuracy,
    answers: Answers,
    resized: list[str],
) -> EvalResult:
    return EvalResult(
        top1=accuracy.top1,
        top5=accuracy.top5,
        correct1=accuracy.correct1,
        correct5=accuracy.correct5,
        images=accuracy.images,
        labels=config.eval.labels,
        model=config.model.name,
        dataset=loader.dataset_name,
        checkpoint=str(checkpoint),
        checkpoint_sha256=file_hash(checkpoint),
        seconds=accuracy.seconds,
        ranks=world.size,
        commit=git_commit(),
        precision=config.eval.precision,
        device=device_name(world.device),
        batch_size=config.eval.batch_size,
        empty_classes=loader.empty_classes or None,
        settings=evaluation_settings(config),
        resized=resized or None,
        per_class=answers.per_class() if config.eval.labels == "original" else None,
    )
