"""Find where a loss or gradient stops being finite: which module first, forward or backward."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data import Batch
from data.rng import hash64
from engine.distributed import World
from engine.files import write_atomic
from engine.records import Record
from engine.schema import TrainConfig
from engine.state import TrainState
from engine.step import Mix, batch_loss


@dataclass(frozen=True, kw_only=True)
class Findings(Record):
    """What a rank found of a step that is not finite."""

    rank: int
    first_bad: str | None
    losses: list[float]
    forward: str | None
    backward: str | None
    parameters: list[str]
    gradients: list[str]
    images: list[int]
    indices: list[int]


class _Watch:
    """Hooks on all modules that note the first output and the first output gradient that are not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.forward: str | None = None
        self.backward: str | None = None
        self._handles = [
            module.register_forward_hook(lambda m, i, output, name=name: self._output(name, m, output))
            for name, module in model.named_modules()
        ]

    def _output(self, name: str, module: nn.Module, output: Any) -> None:
        label = f"{name or 'model'} ({type(module).__name__})"
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if not torch.is_tensor(tensor) or not tensor.is_floating_point():
                continue
            if self.forward is None and not bool(torch.isfinite(tensor).all()):
                self.forward = label
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._gradient(label, gradient))

    def _gradient(self, label: str, gradient: torch.Tensor) -> None:
        if self.backward is None and not bool(torch.isfinite(gradient).all()):
            self.backward = label

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def diagnose(
    state: TrainState, step: int, batches: Sequence[Batch], mix: Mix, train: TrainConfig, world: World
) -> Findings:
    """Run the forward and backward passes of a step again, without an update, and say where they go wrong.

    All ranks must call this together, because synchronised BN talks in the forward pass.

    Returns:
        ``first_bad``: the first bad module or input of this rank in words, or None; and what was found beside it.
    """
    watch = _Watch(state.model)
    state.statistics.snapshot()
    network, state.network = state.network, state.model  # neither compiled nor distributed
    losses = []
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not call the hooks
            for part, batch in enumerate(batches):
                torch.manual_seed(hash64(train.seed, step, part, world.rank))
                loss = batch_loss(state, batch, mix, train, world)
                state.scaler.scale(loss / len(batches)).backward()
                losses.append(float(loss.detach()))
    finally:
        state.network = network
        state.statistics.restore()
        watch.close()
    parameters = [name for name, p in state.model.named_parameters() if not bool(torch.isfinite(p).all())]
    gradients = [
        name for name, p in state.model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    state.optimizer.zero_grad(set_to_none=True)
    bad_images = [int(i) for b in batches for i, x in zip(b.indices, b.images, strict=True) if not x.isfinite().all()]
    return Findings(
        rank=world.rank,
        first_bad=_first_bad(parameters, bad_images, watch, losses),
        losses=losses,
        forward=watch.forward,
        backward=watch.backward,
        parameters=parameters[:20],
        gradients=gradients[:20],
        images=bad_images[:20],
        indices=[int(i) for batch in batches for i in batch.indices],
    )


def write_dump(folder: Path, step: int, findings: list[Findings]) -> Path:
    """Write the findings of all ranks to a JSON file in the run folder and return its path."""
    path = folder / f"nonfinite-step-{step:09d}.json"
    write_atomic(path, json.dumps([found.to_json() for found in findings], indent=2).encode())
    return path


def _first_bad(parameters: list[str], images: list[int], watch: _Watch, losses: list[float]) -> str | None:
    if parameters:
        return f"parameter {parameters[0]}"
    if images:
        return f"the input, image {images[0]}"
    if watch.forward:
        return f"the output of {watch.forward}"
    if any(x - x != 0 for x in losses):
        return "the loss"
    if watch.backward:
        return f"the gradient at the output of {watch.backward}"
    return None
