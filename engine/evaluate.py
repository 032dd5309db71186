"""Exact accuracy: every image counts once, whatever the number of ranks; counters are integers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import Batch, EvalLoader
from engine.distributed import World
from engine.labels import Judge
from engine.schema import TrainConfig
from engine.signals import StopRequest
from engine.step import autocast


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


class EvaluationStopped(Exception):
    """A rank was asked to stop; raised on all ranks at the same batch."""


class EvaluationFailed(RuntimeError):
    """A rank could not read its images; raised on all ranks at the same batch, naming rank and cause."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EvalLoader,
    judge: Judge,
    world: World,
    train: TrainConfig,
    stop: StopRequest | None = None,
    at: Callable[[str], None] = lambda where: None,
) -> Accuracy:
    """Count right answers over the whole set. The model's mode is the caller's again afterwards.

    Args:
        judge: decides which of the highest logits are right.
        stop: asked before each batch; all ranks stop at the same one.
        at: told before each batch where this rank is.

    Raises:
        EvaluationStopped: a signal came, on any rank.
        EvaluationFailed: a rank's loader failed.
    """
    began = time.monotonic()
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
                counts += _count(model, batch, judge, world, train)
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
        raise EvaluationFailed("evaluation cannot read its images: " + "; ".join(faults))
    if stopped:
        raise EvaluationStopped


def _count(model: nn.Module, batch: Batch, judge: Judge, world: World, train: TrainConfig) -> Tensor:
    images = batch.images.to(world.device, non_blocking=True)
    if train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with autocast(train, world):
        logits = model(images)
    return judge(logits.float(), batch.targets.to(world.device), batch.indices)
