"""Layers that mixers and blocks share, on NHWC maps: norms, convolutions, pooling, resizing of their weights."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import UserError
from .ops import local_aggregate


class DepthwiseConv(nn.Module):
    """Depth-wise ``kernel_size`` x ``kernel_size`` convolution of (B, H, W, C) that keeps the map's size.

    ``groups`` kernels serve C channels: channel c uses kernel ``c // (C / groups)``. With ``groups == dim`` it is the
    ordinary depth-wise convolution, with fewer groups the channel-shared one of Table 10. Even kernels pad
    (k - 1) // 2 before and k // 2 after. Initialisation is that of ``nn.Conv2d``.
    """

    def __init__(self, dim: int, kernel_size: int, *, groups: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.dim, self.kernel_size, self.groups = dim, kernel_size, groups or dim
        if dim % self.groups:
            raise UserError(f"groups: {self.groups} kernels cannot be shared evenly by {dim} channels")
        self.weight = nn.Parameter(torch.empty(self.groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Conv2d's default: both uniform within 1 / sqrt(fan-in), and the fan-in is the number of taps."""
        bound = 1 / math.sqrt(self.kernel_size**2)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return local_aggregate(x, self.weight, self.bias)

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        """Kernels of another size, interpolated (Table 5); None for anything else."""
        return resize_kernel(value, self.kernel_size) if name == "weight" and value.ndim == 3 else None

    def extra_repr(self) -> str:
        return f"{self.dim}, kernel_size={self.kernel_size}, groups={self.groups}, bias={self.bias is not None}"


class CenteringBatchNorm2d(nn.Module):
    """Centering calibrated BN (appendix F, Table 9): ``BN(x + w * mean_HW(x))`` with one learned w per channel.

    w starts at 0, so a new module equals plain BN. The input is (B, C, H, W) and is never changed in place: it may be a
    view of the residual. The inner ``bn`` stays an ordinary ``nn.BatchNorm2d`` so that SyncBN conversion finds it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.center_weight = nn.Parameter(torch.zeros(dim))
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return self.bn(x + self.center_weight.view(1, -1, 1, 1) * mean)


NORMS: dict[str, type[nn.Module]] = {
    "ln": nn.LayerNorm,
    "bn": nn.BatchNorm2d,
    "ccbn": CenteringBatchNorm2d,
}


def build_norm(kind: str, dim: int) -> nn.Module:
    """Norm over ``dim`` channels; ``kind`` is a key of :data:`NORMS`. All have eps 1e-5, BN momentum 0.1."""
    if kind not in NORMS:
        raise UserError(f"norm: {kind!r} is not known (one of: {', '.join(NORMS)})")
    return NORMS[kind](dim)


def apply_nchw(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module that expects (B, C, H, W) to an NHWC map; the permutations are views (channels-last memory)."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply any norm to an NHWC map. BN keeps its NCHW interface, so libraries can swap it for SyncBN."""
    if isinstance(norm, nn.LayerNorm | nn.Identity):
        return norm(x)
    return apply_nchw(norm, x)


def pointwise_conv(dim: int, out_dim: int, *, bias: bool = False) -> nn.Linear:
    """1x1 convolution from C to D channels on the last axis of (..., C): in NHWC memory it is a linear layer.

    It keeps a convolution's initialisation and place in the paper's counters (``is_pointwise_conv``), and takes the
    weights of a convolution, (D, C, 1, 1).
    """
    layer = nn.Linear(dim, out_dim, bias=bias)
    layer.is_pointwise_conv = True  # type: ignore[assignment]
    layer.register_load_state_dict_pre_hook(_as_linear)
    return layer


def _as_linear(module: nn.Linear, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = without_window(state[f"{prefix}weight"], module.weight)


def without_window(value: Tensor, like: Tensor) -> Tensor:
    """The weights of a 1x1 convolution (D, C, 1, 1) as (D, C) where the other weights are a linear layer's."""
    return value.flatten(1) if value.ndim == 4 and like.ndim == 2 and value.shape[2:] == (1, 1) else value


def is_plain(layer: nn.Module) -> bool:
    """Whether a linear layer does what its weights say and nobody watches: no other type in its place (LoRA,
    quantisation), no hooks (counters). Its weights may then be used without calling it.
    """
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) is nn.Linear and not hooks and not torch.nn.modules.module._has_any_global_hook()


class GlobalAvgPool(nn.Module):
    """Mean over the positions of an NHWC map: (B, H, W, C) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


def build_pool(kind: str) -> nn.Module:
    """The pooling between the last map and the classifier: "avg", or "" for none."""
    if kind not in ("avg", ""):
        raise UserError(f"global_pool: {kind!r} is not known (one of: 'avg', '')")
    return GlobalAvgPool() if kind else nn.Identity()


class StillStatistics(AbstractContextManager[None]):
    """Lets the batch norms of a module normalise by the batch without counting it in their running statistics.

    It may be entered again: each walk back through a graph that is kept computes a checkpointed block anew.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        norms = (m for m in self._module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None)
        self._kept = [(norm, dict(norm._buffers)) for norm in norms]
        for norm, buffers in self._kept:
            norm._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})

    def __exit__(self, *error: Any) -> None:
        for norm, buffers in self._kept:
            norm._buffers.update(buffers)


_keep_response = False


@contextmanager
def keep_kernel_response() -> Iterator[None]:
    """Let kernels that are resized inside the block keep their sums (:func:`resize_kernel`)."""
    global _keep_response
    before, _keep_response = _keep_response, True
    try:
        yield
    finally:
        _keep_response = before


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Interpolate (..., k, k) kernels to (..., size, size), bicubic, the values as interpolated (Table 5).

    A larger kernel of such values has a larger sum, so a trained network must adapt. Inside
    :func:`keep_kernel_response` each kernel keeps its sum, its response to a constant image: the values are scaled
    down, and what bicubic interpolation misses is spread over all taps. The same size returns the kernel as it is.
    """
    old = kernel.shape[-1]
    if old == size:
        return kernel
    flat = kernel.reshape(1, -1, old, old).float()
    resized = F.interpolate(flat, size=(size, size), mode="bicubic", align_corners=False)
    if _keep_response:
        resized = resized * (old / size) ** 2
        missing = flat.double().sum((2, 3), keepdim=True) - resized.double().sum((2, 3), keepdim=True)
        resized = resized + (missing / size**2).float()
    return resized.reshape(*kernel.shape[:-2], size, size).to(kernel.dtype)


def resize_position_table(table: Tensor, window: int) -> Tensor:
    """Bicubic interpolation of a relative position table ((2w-1)^2, heads) to another window, as Swin does."""
    old = round(table.shape[0] ** 0.5)
    new = 2 * window - 1
    if old == new:
        return table
    grid = table.T.reshape(1, -1, old, old).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(table.shape[1], new * new).T.contiguous().to(table.dtype)


def resize_window_weights(weights: Tensor, windows: tuple[int, int], window: int) -> Tensor:
    """Resize static window weights (rows * columns, heads, n, n) to a grid of ``windows`` and n = window^2.

    Weights of one window are shared by all (first axis 1) or belong to a grid assumed square, whose windows are
    repeated or dropped to the nearest one. Within a window, outputs and inputs are interpolated on their own w x w
    grids, the inputs so that each output's weights keep their sum.
    """
    count, heads, old_n, _ = weights.shape
    old = round(old_n**0.5)
    if count > 1:
        side = round(count**0.5)
        grid = weights.reshape(side, side, -1).permute(2, 0, 1)[None].float()
        grid = F.interpolate(grid, size=windows, mode="nearest")
        weights = grid[0].permute(1, 2, 0).reshape(windows[0] * windows[1], heads, old_n, old_n).to(weights.dtype)
    if old == window:
        return weights
    with keep_kernel_response():  # the sum over a window is what the next layer sees
        rows = resize_kernel(weights.reshape(*weights.shape[:3], old, old), window).flatten(3)
    outputs = rows.transpose(2, 3).reshape(1, -1, old, old)
    outputs = F.interpolate(outputs.float(), size=(window, window), mode="bicubic", align_corners=False)
    outputs = outputs.reshape(weights.shape[0], heads, window**2, window**2)
    return torch.transpose(outputs, 2, 3).contiguous().to(weights.dtype)
