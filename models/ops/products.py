"""The products of a query with the keys of its window, as a PyTorch operator.

It is the dual of the sum with per-position weights: `s_ij = q_i . k_ij` is the gradient of `sum_j w_ij * k_ij` for w
when q is the gradient of the result. So the kernels of that sum compute it and its own gradients, on every backend.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backend import position_kernels, register_autocast
from .position import per_position, per_position_backward, per_position_flops


def window_products(query: Tensor, key: Tensor, groups: int, kernel: int) -> Tensor:
    """Scalar products of each position's query with the keys of its k x k window, group by group.

    Args:
        query: (B, H, W, C).
        key: (B, H, W, C); outside the map it is zero. The window lies as in `local_aggregate`.
        groups: heads G; divides C, and channel c belongs to head `c // (C // G)`.
        kernel: side k of the window.

    Returns:
        (B, H, W, G, k, k).

    Raises:
        ValueError: the shapes do not fit.
    """
    if query.dim() != 4 or query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must be the same (B, H, W, C)")
    if query.shape[-1] % groups:
        raise ValueError(f"{groups} groups do not divide {query.shape[-1]} channels")
    return products(query, key, groups, kernel)


@torch.library.custom_op("local_ops::window_products", mutates_args=())
def products(query: Tensor, key: Tensor, groups: int, kernel: int) -> Tensor:
    """query, key (B, H, W, C) -> (B, H, W, G, k, k)."""
    unused = key.new_zeros(*key.shape[:3], groups, kernel, kernel)
    return position_kernels(key).per_position_backward(query, key, unused)[1]


@products.register_fake
def _products_fake(query: Tensor, key: Tensor, groups: int, kernel: int) -> Tensor:
    return key.new_empty(*key.shape[:3], groups, kernel, kernel)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, key = ctx.saved_tensors
    grad = grad.contiguous()
    return per_position(key, grad), per_position_backward(query, key, grad)[0], None, None


products.register_autograd(_gradients, setup_context=_save_inputs)


@register_flop_formula(torch.ops.local_ops.window_products)
def products_flops(query_shape: Any, key_shape: Any, groups: int, kernel: int, **kwargs: Any) -> int:
    """As many as the sum over the window: k * k * C multiply-adds for each position."""
    return per_position_flops(key_shape, (kernel, kernel))


register_autocast(products)
