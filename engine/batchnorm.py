"""Batch normalisation over several ranks: synchronised by option, and otherwise with statistics that ranks share.

Without synchronisation each rank normalises by its own batch, as the paper's models were trained. The running
statistics are then averaged over the ranks after every optimiser step, so that every rank evaluates and saves the same
network, and a resumed run goes on from the same values.
"""

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from engine.distributed import World


class CpuSyncBatchNorm(_BatchNorm):
    """Synchronised BN for CPU tensors, which torch's own refuses: the same sums, in float32 at least, over gloo."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, C, ...), got {input.ndim} dimensions")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, ...) by the mean and biased variance over all ranks; the ranks may differ in N."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        return self._normalised(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        dims = [0, *range(2, x.ndim)]
        count = x.new_full((1,), x.numel() / x.shape[1])
        total, count = all_reduce(torch.cat([x.sum(dims), count])).split([x.shape[1], 1])
        mean = total / count
        centred = x - _per_channel(mean, x)
        # The second pass keeps the variance exact where the mean is large.
        variance = all_reduce((centred * centred).sum(dims)) / count
        self._track(mean.detach(), variance.detach(), count.detach())
        scale = torch.rsqrt(variance + self.eps)
        y = centred * _per_channel(scale, x)
        if self.affine:
            y = y * _per_channel(self.weight, x) + _per_channel(self.bias, x)
        return y

    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)


def _per_channel(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


SYNCHRONISED = (nn.SyncBatchNorm, CpuSyncBatchNorm)


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BN of the model by its synchronised form for ``device``; returns the model."""
    model = convert_sync_batchnorm(model)
    for module in model.modules():
        if device.type == "cpu" and type(module) is nn.SyncBatchNorm:
            module.__class__ = CpuSyncBatchNorm  # type: ignore[assignment]  # same state, other way to the sums
    return model


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is a batch norm whose parameters are not trained (``train.freeze``)."""
    own = list(module.parameters(recurse=False)) if isinstance(module, _BatchNorm) else []
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch normalisations with running statistics that training changes."""
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [norm for norm in found if not is_frozen(norm)]


class BatchNormStats:
    """The running statistics of a model: averaged over the ranks, and put back when a step is not taken."""

    def __init__(self, model: nn.Module) -> None:
        layers = norms(model)
        values = [[m.running_mean, m.running_var] for m in layers]
        self.values: list[torch.Tensor] = [v for pair in values for v in pair if v is not None]
        self.counts: list[torch.Tensor] = [m.num_batches_tracked for m in layers if m.num_batches_tracked is not None]
        self._per_rank = any(not isinstance(m, SYNCHRONISED) for m in layers)
        self._saved: list[torch.Tensor] = []  # values and counts, each as one tensor

    def snapshot(self) -> None:
        """Remember the values before a step."""
        self._saved = self._flat()

    def restore(self) -> None:
        """Undo what the forward passes since :meth:`snapshot` did."""
        if self._saved:
            self._put(self._saved)

    def settle(self, bad: torch.Tensor, world: World) -> None:
        """End a step: average over the ranks, or put back where ``bad``, bool () on the statistics' device, says so.

        A batch that is not finite must leave no trace, and the host need not know of it.
        """
        self.average(world)
        self._put([torch.where(bad, before, now) for before, now in zip(self._saved, self._flat(), strict=True)])

    def average(self, world: World) -> None:
        """Replace each statistic by its mean over the ranks (no work where BN is synchronised)."""
        if world.size == 1 or not self._per_rank or not self.values:
            return
        values, *counts = self._flat()
        self._put([world.total(values) / world.size, *counts])

    def _flat(self) -> list[torch.Tensor]:
        return [torch.cat([v.reshape(-1) for v in group]) for group in (self.values, self.counts) if group]

    def _put(self, flat: list[torch.Tensor]) -> None:
        groups = [group for group in (self.values, self.counts) if group]
        for group, together in zip(groups, flat, strict=True):
            parts = together.split([v.numel() for v in group])
            torch._foreach_copy_(group, [part.view_as(v) for part, v in zip(parts, group, strict=True)])


def batch_warning(model: nn.Module, per_rank: int, world: World, recipe: int | None) -> str | None:
    """A sentence when batch statistics come from another number of images than in the recipe, else None.

    Args:
        per_rank: images of one micro-batch on one rank.
        recipe: images behind a batch statistic in the recipe; None: any number will do.
    """
    layers = norms(model)
    if not layers or recipe is None:
        return None
    synchronised = all(isinstance(m, SYNCHRONISED) for m in layers)
    images = per_rank * world.size if synchronised else per_rank
    if images == recipe:
        return None
    return (
        f"batch normalisation sees {images} images at a time where the recipe has {recipe} (train.bn_batch): accuracy "
        f"may differ; change the ranks, train.accumulation or train.sync_bn, or set train.bn_batch"
    )
