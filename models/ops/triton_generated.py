"""Weights generated at each position, on a GPU: sizes of tiles, and launches of `triton_generated_kernels`."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_generated_kernels as kernels
from .reference import accumulation_dtype, same_padding
from .triton_common import interpreted, on_device, or_plain, power_of_two, shared_budget, triton_dtype

# Programs that the gradient of the generator is shared by at least, where there are positions enough.
_PROGRAMS = 512
# Bytes of shared memory left for changes of layout.
_SCRATCH = 8192
# Channels that a column has at most: 16 bytes of half precision, what a thread reads at once.
_SPAN = 8


class _Plan(NamedTuple):
    """Sizes of one call and what every launch of it takes."""

    positions: int
    sizes: tuple[int, int]
    groups: int
    constants: dict[str, Any]

    @property
    def taps(self) -> int:
        return self.constants["KERNEL_H"] * self.constants["KERNEL_W"]

    @property
    def columns(self) -> int:
        return self.constants["COLUMNS"]

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.positions, self.constants["BLOCK_P"])

    @property
    def column_blocks(self) -> int:
        return triton.cdiv(self.columns, self.constants["BLOCK_N"])


def _plan(x: Tensor, depth: int, groups: int, kernel: int) -> _Plan:
    """Columns as wide as the groups allow, and tiles that keep all sums in registers."""
    batch, height, width, channels = x.shape
    group_width = channels // groups
    span = min(_SPAN, group_width & -group_width)
    block_p = (64 if span < 8 else 32) * 2 // max(2, x.element_size())
    if span == 1 and x.element_size() == 2:
        block_p *= 2
    block_n = 32 if span < 4 else 16
    before = same_padding(kernel)[0]
    constants = {
        "KERNEL_H": kernel,
        "KERNEL_W": kernel,
        "TOP": before,
        "LEFT": before,
        "COLUMNS": channels // span,
        "SPAN": span,
        "DEPTH": depth,
        "BLOCK_P": block_p,
        "BLOCK_N": block_n,
        "BLOCK_D": _piece(depth),
        "ACC": triton_dtype(x.dtype),
        "UPCAST": interpreted(),
        "num_warps": 4,
        "num_stages": _stages(x, block_p, block_n, span, depth),
    }
    return _Plan(batch * height * width, (height, width), groups, constants)


def _stages(x: Tensor, block_p: int, block_n: int, span: int, depth: int) -> int:
    """Turns of a loop whose tiles may be in shared memory together, at most Triton's usual three.

    Counted are the two tiles of maps, the hidden map's and the rows of the generator.
    """
    padded = depth + -depth % _piece(depth)
    turn = x.element_size() * (2 * block_p * block_n * span + padded * (block_p + block_n))
    return max(1, min(3, (shared_budget(x) - _SCRATCH) // turn))


def _piece(depth: int) -> int:
    """Of a depth, what is worked on at once: the power of two in it, where tensor cores take that, else one piece."""
    factor = min(64, depth & -depth)
    return factor if factor >= 16 else power_of_two(depth, least=16)


class _Generator(NamedTuple):
    """The generator's last layer as the kernels read it: rows (taps, D, columns), bias (taps, columns)."""

    rows: Tensor
    bias: Tensor | None


def _sorted(weight: Tensor, bias: Tensor | None, plan: _Plan, dtype: torch.dtype) -> _Generator:
    """Groups of several columns have their rows repeated, which costs little: no map is as small."""
    repeats = plan.columns // plan.groups
    rows = weight.to(dtype).view(plan.groups, plan.taps, -1).permute(1, 2, 0)
    rows = rows.repeat_interleave(repeats, dim=-1).contiguous()
    if bias is not None:
        bias = bias.view(plan.groups, plan.taps).t().repeat_interleave(repeats, dim=-1).contiguous()
    return _Generator(rows, bias)


def _aggregate(x: Tensor, hidden: Tensor, generator: _Generator, plan: _Plan, backward: bool) -> Tensor:
    """The sum, or its transpose."""
    out = torch.empty_like(x)
    if out.numel():
        rows, bias = generator
        with on_device(x):
            kernels.aggregate_kernel[(plan.tiles, plan.column_blocks)](
                x, rows, rows if bias is None else bias, hidden, out, plan.positions, *plan.sizes,
                BACKWARD=backward, HAS_BIAS=bias is not None, **plan.constants,
            )  # fmt: skip
    return out


@or_plain
def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) or None -> (B, H, W, C)."""
    x, hidden = x.contiguous(), hidden.contiguous()
    plan = _plan(x, hidden.shape[-1], groups, kernel)
    return _aggregate(x, hidden, _sorted(weight, bias, plan, hidden.dtype), plan, backward=False)


@or_plain
def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for x, hidden, weight and bias; every weight is made again."""
    grad, x, hidden = grad.contiguous(), x.contiguous(), hidden.contiguous()
    plan = _plan(x, hidden.shape[-1], groups, kernel)
    generator = _sorted(weight, bias, plan, hidden.dtype)
    grad_x = _aggregate(grad, hidden, generator, plan, backward=True)
    grad_hidden = _grad_hidden(grad, x, hidden, generator, plan)
    grad_weight, grad_bias = _grad_generator(grad, x, hidden, plan)
    grad_weight = grad_weight.permute(2, 0, 1).reshape(weight.shape).to(weight.dtype)
    return grad_x, grad_hidden, grad_weight, grad_bias.t().reshape(-1).to((weight if bias is None else bias).dtype)


def _grad_hidden(grad: Tensor, x: Tensor, hidden: Tensor, generator: _Generator, plan: _Plan) -> Tensor:
    out = torch.empty_like(hidden)
    if out.numel():
        with on_device(x):
            kernels.grad_hidden_kernel[(plan.tiles,)](
                grad, x, generator.rows, out, plan.positions, *plan.sizes, **plan.constants
            )
    return out


def _grad_generator(grad: Tensor, x: Tensor, hidden: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Gradients (taps, D, G) and (taps, G)."""
    parts = max(1, min(triton.cdiv(_PROGRAMS, plan.taps * plan.column_blocks), plan.tiles))
    bias_parts = x.new_zeros(parts, plan.taps, plan.columns, dtype=accumulation_dtype(x.dtype))
    weight_parts = bias_parts.new_zeros(parts, plan.taps, hidden.shape[-1], plan.columns)
    if x.numel():
        with on_device(x):
            kernels.grad_generator_kernel[(plan.taps, parts, plan.column_blocks)](
                grad, x, hidden, weight_parts, bias_parts, plan.positions, *plan.sizes,
                triton.cdiv(plan.tiles, parts), **plan.constants,
            )  # fmt: skip
    repeats = (plan.groups, plan.columns // plan.groups)
    return weight_parts.sum(0).unflatten(-1, repeats).sum(-1), bias_parts.sum(0).unflatten(-1, repeats).sum(-1)
