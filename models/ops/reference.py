"""The local sum `y_i = sum_j w_ij * x_ij` in plain PyTorch: any device, dtype and memory layout.

This is the definition, with its gradients written out. Every fast path has the same functions and is tested against
these, and `LOCAL_OPS=reference` selects them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def same_padding(kernel: int) -> tuple[int, int]:
    """Zeros before and after, so that an odd or even kernel keeps the size."""
    return (kernel - 1) // 2, kernel // 2


def reach(kernel: int, before: int, size: int) -> slice:
    """The taps of one direction that can meet the map at all: on a 2x2 map 3 of 7, the rest only ever see padding."""
    return slice(max(0, before - size + 1), min(kernel, before + size))


def pad_positions(x: Tensor, kernel_height: int, kernel_width: int) -> Tensor:
    """Zero-pad H and W of x (B, H, W, C) for a kernel that keeps the size."""
    return F.pad(x, (0, 0, *same_padding(kernel_width), *same_padding(kernel_height)))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else the dtype itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def shared_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, H, W, C), weight (G, k, k) or (B, G, k, k), bias (C,) or None -> (B, H, W, C)."""
    padded = pad_positions(x, weight.shape[-2], weight.shape[-1])
    out = _correlate(padded, weight)
    return (out if bias is None else out + bias.to(out.dtype)).to(x.dtype)


def shared_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `shared_forward` for x: every kernel turned around and the padding swapped."""
    (top, bottom), (left, right) = same_padding(weight.shape[-2]), same_padding(weight.shape[-1])
    padded = F.pad(grad, (0, 0, right, left, bottom, top))
    return _correlate(padded, weight.flip(-1, -2)).to(grad.dtype)


def shared_grad_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `shared_forward` for weight."""
    height, width = x.shape[1:3]
    groups, kernel_height, kernel_width = weight.shape[-3:]
    compute = accumulation_dtype(x.dtype)
    padded = pad_positions(x.to(compute), kernel_height, kernel_width)
    grad = grad.to(compute)
    axes = (1, 2) if weight.dim() == 4 else (0, 1, 2)
    taps = [
        (padded[:, i : i + height, j : j + width] * grad).sum(axes).unflatten(-1, (groups, -1)).sum(-1)
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]
    return torch.stack(taps, -1).view(weight.shape).to(weight.dtype)


def _correlate(padded: Tensor, weight: Tensor) -> Tensor:
    """The sum over a padded map, tap by tap, in the accumulation dtype."""
    kernel_height, kernel_width = weight.shape[-2:]
    height, width = padded.shape[1] - kernel_height + 1, padded.shape[2] - kernel_width + 1
    compute = accumulation_dtype(padded.dtype)
    padded = padded.to(compute)
    weight = weight.to(compute).repeat_interleave(padded.shape[-1] // weight.shape[-3], dim=-3)
    weight = weight.unsqueeze(0) if weight.dim() == 3 else weight
    total = padded.new_zeros(padded.shape[0], height, width, padded.shape[-1])
    for i in range(kernel_height):
        for j in range(kernel_width):
            total = total + weight[:, None, None, :, i, j] * padded[:, i : i + height, j : j + width]
    return total


def per_position(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, H, W, C), weight (B, H, W, G, k, k) -> (B, H, W, C)."""
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[3:]
    compute = accumulation_dtype(x.dtype)
    padded = pad_positions(x.to(compute), kernel_height, kernel_width)
    padded = padded.unflatten(-1, (groups, channels // groups))
    weight = weight.to(compute)
    total = x.new_zeros((batch, height, width, groups, channels // groups), dtype=compute)
    for i in range(kernel_height):
        for j in range(kernel_width):
            total = total + weight[..., i, j].unsqueeze(-1) * padded[:, i : i + height, j : j + width]
    return total.flatten(3).to(x.dtype)


def per_position_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `per_position` for x and weight."""
    height, width, channels = x.shape[1:]
    groups, kernel_height, kernel_width = weight.shape[3:]
    compute = accumulation_dtype(x.dtype)
    shape = (groups, channels // groups)
    padded = pad_positions(x.to(compute), kernel_height, kernel_width).unflatten(-1, shape)
    grad = grad.to(compute).unflatten(-1, shape)
    grad_padded = torch.zeros_like(padded)
    grad_weight = weight.new_empty(weight.shape, dtype=compute)
    for i in range(kernel_height):
        for j in range(kernel_width):
            window = (slice(None), slice(i, i + height), slice(j, j + width))
            grad_padded[window] += weight[..., i, j].unsqueeze(-1).to(compute) * grad
            grad_weight[..., i, j] = (padded[window] * grad).sum(-1)
    top, left = same_padding(kernel_height)[0], same_padding(kernel_width)[0]
    grad_x = grad_padded[:, top : top + height, left : left + width].flatten(3)
    return grad_x.to(x.dtype).contiguous(), grad_weight.to(weight.dtype)


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """Make the weights of every position by one linear map of `hidden`, then aggregate x with them."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    return per_position(x, generated)


def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `generate_and_aggregate` for x, hidden, weight and bias."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    grad_x, grad_generated = per_position_backward(grad, x, generated)
    grad_generated = grad_generated.flatten(0, 2).flatten(1)
    grad_hidden = (grad_generated @ weight).view_as(hidden)
    grad_weight = grad_generated.T @ hidden.flatten(0, 2)
    return grad_x, grad_hidden, grad_weight, grad_generated.sum(0)
