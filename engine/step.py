"""One optimiser step, as plain code from the batches to the new weights.

Exact resume rests on three rules kept here: the learning rate is a function of the step number; all randomness inside
the model (stochastic depth, dropout) is seeded anew for each part of a step from (seed, step, part, rank); and the
batches are a function of (seed, epoch, position).

Nothing here waits for the device, so that the host can prepare the next step meanwhile: whether a step is taken is
decided on the device, and its numbers are read later (:mod:`engine.reader`).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.loss import SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor

from data import Batch
from data.rng import hash64
from engine.distributed import World
from engine.optim import learning_rate, obeys_flag, step_unless
from engine.readback import Readback
from engine.schema import TrainConfig
from engine.state import TrainState

Mix = Callable[[Tensor, Tensor, tuple[int, int, int]], tuple[Tensor, Tensor]]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 1.0  # fp16 gradients that overflow below it are not a matter of scale


@dataclass(frozen=True)
class StepResult:
    """What one step did. Loss and gradient norm (before clipping) are those of the whole batch over all ranks."""

    number: int  # counted from 0
    loss: float
    grad_norm: float
    lr: float
    taken: bool  # the weights changed
    bad: bool  # loss or gradient is not finite, and not only by the scale of fp16


class PendingStep:
    """A step that the device may still work on.

    Args:
        values: float64 (5,) on the device: the sum of the ranks' losses; how many ranks have a loss, and how many a
            gradient norm, that is not finite; this rank's norm; the scale of fp16, 0 without it.
    """

    def __init__(self, number: int, lr: float, values: Tensor, ranks: int) -> None:
        self._number, self._lr, self._ranks = number, lr, ranks
        self._values = Readback(values)

    def read(self) -> StepResult:
        """What it did; waits until the device has done it."""
        loss_sum, loss_bad, norm_bad, norm, scale = self._values.values()
        skipped = bool(loss_bad or norm_bad)
        bad = skipped and not (not loss_bad and scale > SMALLEST_SCALE)
        return StepResult(self._number, loss_sum / self._ranks, norm, self._lr, not skipped, bad)


def train_step(state: TrainState, batches: Sequence[Batch], mix: Mix, train: TrainConfig, world: World) -> PendingStep:
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

    loss = torch.stack(losses).float().mean()
    # One sum tells all ranks the loss of the whole batch and whether any rank must not take the step.
    own = torch.stack([loss, ~torch.isfinite(loss), ~torch.isfinite(norm)]).double()
    sums = world.total(own)
    scale = state.scaler.scale(torch.ones_like(norm)) if state.scaler.is_enabled() else torch.zeros_like(norm)
    step = PendingStep(number, learning_rate(state.optimizer), torch.cat([sums, norm[None], scale[None]]), world.size)
    _update(state, sums[1:].sum() > 0, number, world)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return step


def _update(state: TrainState, bad: Tensor, number: int, world: World) -> None:
    """Change weights, statistics and average, or none of them where ``bad``, bool () on the device, says so."""
    if obeys_flag(state.optimizer):
        step_unless(state.optimizer, bad)
    elif not bad:  # the host has to know: it waits for the device here
        state.optimizer.step()
    state.statistics.settle(bad, world)
    if state.ema is not None:
        _average_weights(state, state.ema, bad, number)


def _average_weights(state: TrainState, ema: ModelEmaV3, bad: Tensor, number: int) -> None:
    """timm's update of the average, with a weight that the device decides on: of a skipped step nothing is added."""
    weight = torch.where(bad, 0.0, 1.0 - ema.get_decay(number + 1))
    pairs = list(zip(ema.module.state_dict().values(), state.model.state_dict().values(), strict=True))
    averaged = [(own, new) for own, new in pairs if own.is_floating_point()]
    torch._foreach_lerp_([own for own, _ in averaged], [new for _, new in averaged], [weight] * len(averaged))
    for own, new in pairs:
        if not own.is_floating_point():
            own.copy_(new)


def batch_loss(state: TrainState, batch: Batch, mix: Mix, train: TrainConfig, world: World) -> Tensor:
    """The mean cross-entropy of one micro-batch with soft targets, a scalar on the device.

    Swin's loss for both cases of the recipe: with mixup the targets are mixed and smoothed, without it smoothed only,
    which equals label-smoothing cross-entropy.
    """
    images = laid_out(batch.images.to(world.device, non_blocking=True), train)
    targets = batch.targets.to(world.device, non_blocking=True)
    images, soft_targets = mix(images, targets, (train.seed, batch.epoch, batch.position))
    with autocast(train.precision, world):
        logits = state.network(images)
    return SoftTargetCrossEntropy()(logits.float(), soft_targets)


def laid_out(images: Tensor, train: TrainConfig) -> Tensor:
    """Images (n, C, H, W) in the memory format that the network trains with."""
    return images.contiguous(memory_format=torch.channels_last) if train.channels_last else images


def autocast(precision: str, world: World) -> torch.autocast:
    """The precision of the forward pass; does nothing for fp32."""
    return torch.autocast(world.device.type, DTYPES[precision], enabled=precision != "fp32")


def _gradients_travel(state: TrainState, last: bool) -> contextlib.AbstractContextManager[None]:
    """Sum gradients over the ranks only once per step, in the backward pass of the last part."""
    no_sync = getattr(state.network, "no_sync", None)
    return contextlib.nullcontext() if last or no_sync is None else no_sync()
