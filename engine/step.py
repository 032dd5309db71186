"""One optimiser step, as plain code from the batches to the new weights.

Exact resume rests on three rules kept here: the learning rate is a function of the step number; all randomness inside
the model (stochastic depth, dropout) is seeded anew for each part of a step from (seed, step, part, rank); and the
batches are a function of (seed, epoch, position).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from data import Batch
from data.rng import hash64
from engine.distributed import World
from engine.optim import learning_rate
from engine.schema import TrainConfig
from engine.state import TrainState

Mix = Callable[[Tensor, Tensor, tuple[int, int, int]], tuple[Tensor, Tensor]]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 1.0  # fp16 gradients that overflow below it are not a matter of scale


@dataclass(frozen=True)
class StepResult:
    """What one step did. Loss and gradient norm (before clipping) are those of the whole batch over all ranks."""

    loss: float
    grad_norm: float
    lr: float
    taken: bool  # the weights changed
    bad: bool  # loss or gradient is not finite, and not only by the scale of fp16


def train_step(state: TrainState, batches: Sequence[Batch], mix: Mix, train: TrainConfig, world: World) -> StepResult:
    """Forward and backward of each part of the batch, then one update that all ranks take or all skip.

    Args:
        batches: the ``train.accumulation`` micro-batches of this rank.
        mix: mixup, CutMix and label smoothing: images and integer targets to images and soft targets.
    """
    number = state.progress.step
    state.schedule.step_update(number)
    state.statistics.snapshot()
    state.optimizer.zero_grad(set_to_none=True)
    losses = []
    for part, batch in enumerate(batches):
        torch.manual_seed(hash64(train.seed, number, part, world.rank))
        with _gradients_travel(state, part == len(batches) - 1):
            loss = batch_loss(state, batch, mix, train, world)
            state.scaler.scale(loss / len(batches)).backward()
        losses.append(loss.detach())
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), train.clip_grad or float("inf"))
    loss_value, norm_value = torch.stack([torch.stack(losses).float().mean(), norm.float()]).tolist()

    lr = learning_rate(state.optimizer)
    # One sum tells all ranks the loss of the whole batch and whether any rank must not take the step.
    own = [loss_value, not _finite(loss_value), not _finite(norm_value)]
    loss_sum, loss_bad, norm_bad = world.total(torch.tensor(own, dtype=torch.float64)).tolist()
    too_large_scale = norm_bad and not loss_bad and state.scaler.is_enabled()
    bad = bool(loss_bad or norm_bad) and not (too_large_scale and state.scaler.get_scale() > SMALLEST_SCALE)
    taken = not (loss_bad or norm_bad)
    if taken:
        state.scaler.step(state.optimizer)
        state.statistics.average(world)
        if state.ema is not None:
            state.ema.update(state.model, step=number + 1)
    else:
        state.statistics.restore()
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum / world.size, norm_value, lr, taken, bad)


def batch_loss(state: TrainState, batch: Batch, mix: Mix, train: TrainConfig, world: World) -> Tensor:
    """The mean cross-entropy of one micro-batch with soft targets, a scalar on the device.

    Swin's loss for both cases of the recipe: with mixup the targets are mixed and smoothed, without it smoothed only,
    which equals label-smoothing cross-entropy.
    """
    images = batch.images.to(world.device, non_blocking=True)
    if train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    targets = batch.targets.to(world.device, non_blocking=True)
    images, soft_targets = mix(images, targets, (train.seed, batch.epoch, batch.position))
    with autocast(train.precision, world):
        logits = state.network(images)
    return SoftTargetCrossEntropy()(logits.float(), soft_targets)


def autocast(precision: str, world: World) -> torch.autocast:
    """The precision of the forward pass; does nothing for fp32."""
    return torch.autocast(world.device.type, DTYPES[precision], enabled=precision != "fp32")


def _gradients_travel(state: TrainState, last: bool) -> contextlib.AbstractContextManager[None]:
    """Sum gradients over the ranks only once per step, in the backward pass of the last part."""
    no_sync = getattr(state.network, "no_sync", None)
    return contextlib.nullcontext() if last or no_sync is None else no_sync()


def _finite(value: float) -> bool:
    return value - value == 0.0
