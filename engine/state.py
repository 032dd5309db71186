"""Everything that the next step depends on, in one object that can be saved and restored exactly."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from engine.batchnorm import BatchNormStats
from models.layers import without_window


@dataclass
class Progress:
    """How far the run has come, and what it has seen on the way."""

    step: int = 0  # optimiser steps, skipped ones included
    epoch: int = 0  # epochs trained and evaluated
    skipped: int = 0  # steps whose loss or gradient was not finite
    bad_in_row: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0
    loss_sum: float = 0.0  # over the finished steps of the present epoch
    loss_steps: int = 0
    train_seconds: float = 0.0  # of this and earlier processes, without waiting for evaluation
    last: dict[str, Any] = field(default_factory=dict)  # the latest evaluation


@dataclass
class TrainState:
    """The trained network and all that trains it.

    ``network`` is what the forward pass goes through (distributed, compiled); ``model`` is the plain module inside.
    Randomness needs no state: each step seeds its own (see :mod:`engine.step`).
    """

    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    statistics: BatchNormStats
    progress: Progress
    data: dict[str, Any] = field(default_factory=dict)
    """What it learns from (:mod:`engine.identity`)."""

    def to_save(self) -> dict[str, Any]:
        """A nested plain value that :meth:`restore` takes."""
        return {
            "model": dict(self.model.state_dict()),
            "ema": None if self.ema is None else dict(self.ema.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "data": self.data,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Become the saved state, on this process's device and memory formats.

        Raises:
            RuntimeError: the saved state is of another model or optimiser.
        """
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self._match_layouts()
        self.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])

    def _match_layouts(self) -> None:
        """Give moments the strides of their parameter, so that the same kernels run as before the restart."""
        for parameter, values in self.optimizer.state.items():
            for key, value in values.items():
                if not torch.is_tensor(value):
                    continue
                values[key] = value = without_window(value, parameter)  # of a run that began before December 2026
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def best_weights(self, averaged: bool) -> nn.Module:
        """The module whose weights are evaluated or published: the average where there is one and it is wanted."""
        return self.ema.module if averaged and self.ema is not None else self.model
