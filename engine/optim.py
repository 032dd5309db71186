"""Optimiser, parameter groups and learning-rate schedule, all from timm's factories."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from engine.schema import TrainConfig
from models.checkpoint import classifier_names
from models.errors import UserError, hint

# Their fused kernels leave weights, moments and step count alone where `found_inf` is set. SGD's do so, too, but begin
# with a momentum that nobody has written if the first step is skipped.
OBEDIENT = (torch.optim.Adam, torch.optim.AdamW)


def rate_scale(train: TrainConfig) -> float:
    """The factor of the linear scaling rule (Swin: 5e-4 for 512 images); 1 without ``train.lr_batch``."""
    return 1.0 if train.lr_batch is None else train.batch_size / train.lr_batch


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over two groups, without and with weight decay, or two per layer with ``layer_decay``; the
    classifier has groups of its own with ``head_lr_scale``.

    No decay for one-dimensional parameters, biases, and what the model names in ``no_weight_decay()`` (PAPER: the
    relative position tables).

    Raises:
        UserError: timm has no such optimiser, or it does not take an argument.
    """
    names = [str(name) for name in list_optimizers()]
    if train.optimizer.lower() not in names:
        raise UserError(f"train.optimizer: {train.optimizer} is unknown; {hint(train.optimizer, names)}")
    own: dict[str, Any] = {"betas": train.betas, "eps": train.eps}
    arguments = {key: value for key, value in own.items() if value is not None} | train.optimizer_args
    kind = get_optimizer_class(train.optimizer.lower(), bind_defaults=False)
    if kind in OBEDIENT and not {"foreach", "differentiable"} & arguments.keys():
        arguments.setdefault("fused", True)
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=train.optimizer,
            lr=train.lr * rate_scale(train),
            weight_decay=train.weight_decay,
            momentum=train.momentum,
            layer_decay=train.layer_decay,
            **arguments,
        )
    except (TypeError, ValueError, AssertionError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"train.optimizer_args: {train.optimizer} refuses its arguments: {message}") from None
    if train.head_lr_scale != 1:
        _scale_head(optimizer, model, train.head_lr_scale)
    return optimizer


def _scale_head(optimizer: torch.optim.Optimizer, model: nn.Module, scale: float) -> None:
    """Give the classifier groups of its own with a rate of its own, which timm's schedules know as ``lr_scale``."""
    heads = tuple(f"{name}." for name in classifier_names(model))
    head = {id(parameter) for name, parameter in model.named_parameters() if name.startswith(heads)}
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in head]
        rest = [parameter for parameter in group["params"] if id(parameter) not in head]
        scaled = group.get("lr_scale", 1.0) * scale
        if own and rest:
            group["params"] = rest
            optimizer.add_param_group({**group, "params": own, "lr_scale": scaled})
        elif own:
            group["lr_scale"] = scaled


def build_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig, steps_per_epoch: int) -> Scheduler:
    """The learning rate as a function of the number of optimiser steps already made.

    ``schedule.step_update(n)`` sets the rate of step n (counted from 0), so resuming needs no state of its own.

    Raises:
        UserError: the schedule does not take an argument, or the warm-up is longer than the run.
    """
    if train.warmup_epochs + train.cooldown_epochs >= train.epochs:
        raise UserError(
            f"train.warmup_epochs: {train.warmup_epochs:g} is not shorter than train.epochs {train.epochs}"
            + (f" without cooldown_epochs {train.cooldown_epochs:g}" if train.cooldown_epochs else "")
            + f"; the nearest valid is {train.epochs - 1 - train.cooldown_epochs:g}"
        )
    prefix = train.warmup_epochs if train.warmup_prefix else 0
    lengths: dict[str, Any] = {
        "num_epochs": train.epochs - prefix - train.cooldown_epochs,
        "warmup_epochs": train.warmup_epochs,
    }
    scale = rate_scale(train)
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=train.schedule,
            **lengths,
            warmup_lr=train.warmup_lr * scale,
            warmup_prefix=train.warmup_prefix,
            min_lr=train.min_lr * scale,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **train.schedule_args,
        )
    except (TypeError, ValueError, AssertionError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"train.schedule_args: {train.schedule} refuses its arguments: {message}") from None
    return schedule


def effective_rates(train: TrainConfig) -> str:
    """What the rates are after the scaling rule, in words for the start of a run."""
    scale = rate_scale(train)
    rule = "" if train.lr_batch is None else f" (batch {train.batch_size} / {train.lr_batch} times the values given)"
    warm = f"from {train.warmup_lr * scale:g} over {train.warmup_epochs:g} epochs to " if train.warmup_epochs else ""
    end = "" if train.schedule == "constant" else f", {train.schedule} to {train.min_lr * scale:g}"
    head = "" if train.head_lr_scale == 1 else f"; {train.head_lr_scale:g} times that for the classifier"
    return f"{warm}{train.lr * scale:g}{end}{rule}{head}"


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the schedule, without what layer-wise decay and the classifier's scale make of it."""
    nearest = min(optimizer.param_groups, key=lambda group: abs(group.get("lr_scale", 1.0) - 1.0))
    return nearest["lr"] / nearest.get("lr_scale", 1.0)


def obeys_flag(optimizer: torch.optim.Optimizer) -> bool:
    """Whether :func:`step_unless` can be used."""
    return isinstance(optimizer, OBEDIENT) and all(group.get("fused") for group in optimizer.param_groups)


def step_unless(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """A step that leaves no trace where ``skip``, bool () on the device, is true; the host does not look at it.

    This is the protocol between torch's GradScaler and its fused optimisers.
    """
    optimizer.grad_scale, optimizer.found_inf = None, skip.float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
