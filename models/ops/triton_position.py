"""Per-position weights on a GPU, given or generated: launches of the kernels in `triton_position_kernels`."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import triton_position_kernels as kernels
from .reference import accumulation_dtype, same_padding
from .triton_common import interpreted, on_device, power_of_two, triton_dtype

# Programs that share the sum over all positions in the gradient of the generator, for each tap.
_PARTS = 32


class _Plan(NamedTuple):
    """Sizes of one call and what every launch of it takes."""

    positions: int
    sizes: tuple[int, int]
    groups: int
    width: int
    blocks: dict[str, int]
    constants: dict[str, Any]

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.positions, self.blocks["BLOCK_P"])

    @property
    def group_blocks(self) -> int:
        return triton.cdiv(self.groups, self.blocks["BLOCK_G"])


def _plan(x: Tensor, groups: int, kernel_height: int, kernel_width: int, matrix: bool) -> _Plan:
    """Tiles of about 4096 values; where tensor cores take part no side is below their 16."""
    batch, height, width, channels = x.shape
    group_width = channels // groups
    lanes = power_of_two(group_width)
    block_g = power_of_two(groups, least=16 if matrix else 1, most=max(16, min(32, 1024 // lanes)))
    block_p = power_of_two(4096 // (block_g * lanes), least=16, most=64)
    constants = {
        "KERNEL_H": kernel_height,
        "KERNEL_W": kernel_width,
        "TOP": same_padding(kernel_height)[0],
        "LEFT": same_padding(kernel_width)[0],
        "ACC": triton_dtype(x.dtype),
        "num_warps": 8,
    }
    blocks = {"BLOCK_P": block_p, "BLOCK_G": block_g, "WIDTH": lanes}
    return _Plan(batch * height * width, (height, width), groups, group_width, blocks, constants)


def _aggregate(
    x: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, plan: _Plan, backward: bool
) -> Tensor:
    """The sum, or its transpose. weight is (B, H, W, G, k, k), or (taps, D, G) where hidden is given."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    depth = 1 if hidden is None else hidden.shape[-1]
    with on_device(x):
        kernels.aggregate_kernel[(plan.tiles, plan.group_blocks)](
            x,
            weight,
            weight if bias is None else bias,
            weight if hidden is None else hidden,
            out,
            plan.positions,
            *plan.sizes,
            plan.groups,
            plan.width,
            depth,
            BACKWARD=backward,
            GENERATED=hidden is not None,
            HAS_BIAS=bias is not None,
            BLOCK_D=power_of_two(depth, least=16),
            UPCAST=interpreted(),
            **plan.blocks,
            **plan.constants,
        )
    return out


def per_position(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, H, W, C), weight (B, H, W, G, k, k) -> (B, H, W, C)."""
    return _aggregate(
        x,
        weight.contiguous(),
        None,
        None,
        _plan(x, weight.shape[3], weight.shape[4], weight.shape[5], matrix=False),
        backward=False,
    )


def per_position_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for x and weight."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    plan = _plan(x, weight.shape[3], weight.shape[4], weight.shape[5], matrix=False)
    grad_weight = torch.empty_like(weight)
    if x.numel():
        with on_device(x):
            kernels.grad_weight_kernel[(plan.tiles, plan.group_blocks)](
                grad, x, grad_weight, plan.positions, *plan.sizes, plan.groups, plan.width,
                **plan.blocks, **plan.constants,
            )  # fmt: skip
    return _aggregate(grad, weight, None, None, plan, backward=True), grad_weight


class _Generator(NamedTuple):
    """The generator's last layer sorted for the kernels: weight (taps, D, G), bias (taps, G)."""

    weight: Tensor
    bias: Tensor | None


def _sorted(weight: Tensor, bias: Tensor | None, groups: int, dtype: torch.dtype) -> _Generator:
    rows = weight.to(dtype).view(groups, -1, weight.shape[-1]).permute(1, 2, 0).contiguous()
    return _Generator(rows, None if bias is None else bias.view(groups, -1).t().contiguous())


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) or None -> (B, H, W, C)."""
    generator = _sorted(weight, bias, groups, hidden.dtype)
    plan = _plan(x, groups, kernel, kernel, matrix=True)
    return _aggregate(x, generator.weight, generator.bias, hidden.contiguous(), plan, backward=False)


def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for x, hidden, weight and bias; every weight is made again."""
    grad, x, hidden = grad.contiguous(), x.contiguous(), hidden.contiguous()
    generator = _sorted(weight, bias, groups, hidden.dtype)
    plan = _plan(x, groups, kernel, kernel, matrix=True)
    grad_x = _aggregate(grad, generator.weight, generator.bias, hidden, plan, backward=True)
    grad_hidden = _grad_hidden(grad, x, hidden, generator, plan)
    grad_weight, grad_bias = _grad_generator(grad, x, hidden, plan)
    grad_weight = grad_weight.permute(2, 0, 1).reshape(weight.shape).to(weight.dtype)
    return grad_x, grad_hidden, grad_weight, grad_bias.t().reshape(-1).to((weight if bias is None else bias).dtype)


def _grad_hidden(grad: Tensor, x: Tensor, hidden: Tensor, generator: _Generator, plan: _Plan) -> Tensor:
    out = torch.empty_like(hidden)
    if out.numel():
        with on_device(x):
            kernels.grad_hidden_kernel[(plan.tiles,)](
                grad, x, generator.weight, out, plan.positions, *plan.sizes, plan.groups, plan.width, hidden.shape[-1],
                BLOCK_D=power_of_two(hidden.shape[-1], least=16), UPCAST=interpreted(), **plan.blocks, **plan.constants,
            )  # fmt: skip
    return out


def _grad_generator(grad: Tensor, x: Tensor, hidden: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Gradients (taps, D, G) and (taps, G)."""
    taps, depth = plan.constants["KERNEL_H"] * plan.constants["KERNEL_W"], hidden.shape[-1]
    parts = max(1, min(_PARTS, plan.tiles))
    dtype = accumulation_dtype(x.dtype)
    weight_parts = torch.zeros(parts, taps, depth, plan.groups, dtype=dtype, device=x.device)
    bias_parts = torch.zeros(parts, taps, plan.groups, dtype=dtype, device=x.device)
    if x.numel():
        with on_device(x):
            kernels.grad_generator_kernel[(taps, parts, plan.group_blocks)](
                grad, x, hidden, weight_parts, bias_parts, plan.positions, *plan.sizes, plan.groups, plan.width, depth,
                triton.cdiv(plan.tiles, parts),
                BLOCK_D=power_of_two(depth, least=16), UPCAST=interpreted(), **plan.blocks, **plan.constants,
            )  # fmt: skip
    return weight_parts.sum(0), bias_parts.sum(0)
