"""Per-position weights, given or generated, as PyTorch operators: see `shared` for what that means."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import position_kernels, register_autocast


@torch.library.custom_op("local_ops::per_position", mutates_args=())
def per_position(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, H, W, C), weight (B, H, W, G, k, k) -> (B, H, W, C)."""
    return position_kernels(x).per_position(x, weight)


@per_position.register_fake
def _per_position_fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("local_ops::per_position_backward", mutates_args=())
def per_position_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `per_position` for x and for the weights."""
    return position_kernels(x).per_position_backward(grad, x, weight)


@per_position_backward.register_fake
def _per_position_backward_fake(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _per_position_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return per_position_backward(grad, *ctx.saved_tensors)


per_position.register_autograd(_per_position_gradients, setup_context=_save_inputs)


@torch.library.custom_op("local_ops::generate_and_aggregate", mutates_args=())
def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) -> (B, H, W, C)."""
    return position_kernels(x).generate_and_aggregate(x, hidden, weight, bias, groups, kernel)


@generate_and_aggregate.register_fake
def _generate_fake(x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("local_ops::generate_and_aggregate_backward", mutates_args=())
def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `generate_and_aggregate` for x, hidden, weight and bias."""
    return position_kernels(x).generate_and_aggregate_backward(grad, x, hidden, weight, bias, groups, kernel)


@generate_and_aggregate_backward.register_fake
def _generate_backward_fake(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_bias = weight.new_empty(weight.shape[0]) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), grad_bias


def _save_generate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, hidden, weight, bias, ctx.groups, ctx.kernel = inputs
    ctx.save_for_backward(x, hidden, weight, bias)


def _generate_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # gradient checkpointing allows one look
    *gradients, bias = generate_and_aggregate_backward(grad, *saved, ctx.groups, ctx.kernel)
    return (*gradients, None if saved[3] is None else bias, None, None)


generate_and_aggregate.register_autograd(_generate_gradients, setup_context=_save_generate)


@register_flop_formula(torch.ops.local_ops.per_position)
def per_position_flops(x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Two per weight and channel: k * k * C for each position."""
    batch, height, width, channels = x_shape
    return 2 * batch * height * width * channels * weight_shape[-1] * weight_shape[-2]


@register_flop_formula(torch.ops.local_ops.per_position_backward)
def per_position_backward_flops(grad_shape: Any, x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    """The gradients for x and for the weights cost one forward sum each."""
    return 2 * per_position_flops(x_shape, weight_shape)


def _generation_flops(hidden_shape: Any, weight_shape: Any) -> int:
    batch, height, width, depth = hidden_shape
    return 2 * batch * height * width * depth * weight_shape[0]


@register_flop_formula(torch.ops.local_ops.generate_and_aggregate)
def generate_and_aggregate_flops(
    x_shape: Any, hidden_shape: Any, weight_shape: Any, bias_shape: Any, groups: int, kernel: int, **kwargs: Any
) -> int:
    """The linear map that makes the weights, and the sum over them."""
    aggregation = per_position_flops(x_shape, (kernel, kernel))
    return aggregation + _generation_flops(hidden_shape, weight_shape)


@register_flop_formula(torch.ops.local_ops.generate_and_aggregate_backward)
def generate_and_aggregate_backward_flops(
    grad_shape: Any,
    x_shape: Any,
    hidden_shape: Any,
    weight_shape: Any,
    bias_shape: Any,
    groups: int,
    kernel: int,
    **kwargs: Any,
) -> int:
    """Two sums, and three linear maps: the weights made again, and the gradients for both factors."""
    aggregation = per_position_flops(x_shape, (kernel, kernel))
    return 2 * aggregation + 3 * _generation_flops(hidden_shape, weight_shape)


register_autocast(per_position)
register_autocast(generate_and_aggregate)
