"""Given per-position weights on a GPU: launches of the kernels in `triton_position_kernels`."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_position_kernels as kernels
from .reference import same_padding
from .triton_common import on_device, or_plain, power_of_two, triton_dtype
from .triton_generated import generate_and_aggregate, generate_and_aggregate_backward

__all__ = ["generate_and_aggregate", "generate_and_aggregate_backward", "per_position", "per_position_backward"]


class _Plan(NamedTuple):
    """The grid of one call and what every launch of it takes."""

    grid: tuple[int, int]
    sizes: tuple[int, int, int]
    constants: dict[str, Any]


def _plan(x: Tensor, weight: Tensor) -> _Plan:
    """Tiles of about 4096 values."""
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[3:]
    lanes = power_of_two(channels // groups)
    block_g = power_of_two(groups, most=max(16, min(32, 1024 // lanes)))
    block_p = power_of_two(4096 // (block_g * lanes), least=16, most=64)
    constants = {
        "KERNEL_H": kernel_height,
        "KERNEL_W": kernel_width,
        "TOP": same_padding(kernel_height)[0],
        "LEFT": same_padding(kernel_width)[0],
        "GROUPS": groups,
        "GROUP_WIDTH": channels // groups,
        "ACC": triton_dtype(x.dtype),
        "BLOCK_P": block_p,
        "BLOCK_G": block_g,
        "LANES": lanes,
        "num_warps": 8,
    }
    positions = batch * height * width
    grid = (triton.cdiv(positions, block_p), triton.cdiv(groups, block_g))
    return _Plan(grid, (positions, height, width), constants)


def _aggregate(x: Tensor, weight: Tensor, backward: bool) -> Tensor:
    """The sum, or its transpose."""
    out = torch.empty_like(x)
    plan = _plan(x, weight)
    if out.numel():
        with on_device(x):
            kernels.aggregate_kernel[plan.grid](x, weight, out, *plan.sizes, BACKWARD=backward, **plan.constants)
    return out


@or_plain
def per_position(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, H, W, C), weight (B, H, W, G, k, k) -> (B, H, W, C)."""
    return _aggregate(x.contiguous(), weight.contiguous(), backward=False)


@or_plain
def per_position_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for x and weight."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    plan = _plan(x, weight)
    grad_weight = torch.empty_like(weight)
    if x.numel():
        with on_device(x):
            kernels.grad_weight_kernel[plan.grid](grad, x, grad_weight, *plan.sizes, **plan.constants)
    return _aggregate(grad, weight, backward=True), grad_weight
