"""`local_ops::shared`: static and per-image weights as a PyTorch operator.

Fake kernel, gradients, autocast and FLOP formula, so that torch.compile, torch.export, AMP, DDP and the FLOP counter
see one operator whatever computes it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import register_autocast, shared_kernels


@torch.library.custom_op("local_ops::shared", mutates_args=())
def shared(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, H, W, C), weight (G, k, k) or (B, G, k, k), bias (C,) or None -> (B, H, W, C)."""
    return shared_kernels(x).shared_forward(x, weight, bias)


@shared.register_fake
def _shared_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("local_ops::shared_grad_input", mutates_args=())
def shared_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `shared` for x."""
    return shared_kernels(grad).shared_grad_input(grad, weight)


@shared_grad_input.register_fake
def _shared_grad_input_fake(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


@torch.library.custom_op("local_ops::shared_grad_weight", mutates_args=())
def shared_grad_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `shared` for weight."""
    return shared_kernels(x).shared_grad_weight(grad, x, weight)


@shared_grad_weight.register_fake
def _shared_grad_weight_fake(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    grad_bias = None
    if need_bias:
        grad_bias = grad.sum((0, 1, 2), dtype=torch.promote_types(grad.dtype, torch.float32)).to(ctx.bias_dtype)
    return (
        shared_grad_input(grad, weight) if need_x else None,
        shared_grad_weight(grad, x, weight) if need_weight else None,
        grad_bias,
    )


shared.register_autograd(_gradients, setup_context=_save)
register_autocast(shared)


@register_flop_formula(
    [torch.ops.local_ops.shared, torch.ops.local_ops.shared_grad_input, torch.ops.local_ops.shared_grad_weight]
)
def shared_flops(x_shape: Any, *shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two per weight and channel at each position; each gradient costs one forward sum."""
    batch, height, width, channels = x_shape
    weight_shape = next(shape for shape in reversed(shapes) if shape is not None and len(shape) > 2)
    return 2 * batch * height * width * channels * weight_shape[-1] * weight_shape[-2]
