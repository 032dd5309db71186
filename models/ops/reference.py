"""The local sum `y_i = sum_j w_ij * x_ij` in plain PyTorch: any device, dtype and memory layout.

This is the definition. Every fast path is tested against it, and `LOCAL_OPS=reference` selects it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def same_padding(kernel: int) -> tuple[int, int]:
    """Zeros before and after, so that an odd or even kernel keeps the size."""
    return (kernel - 1) // 2, kernel // 2


def pad_positions(x: Tensor, kernel_height: int, kernel_width: int) -> Tensor:
    """Zero-pad H and W of x (B, H, W, C) for a kernel that keeps the size."""
    return F.pad(x, (0, 0, *same_padding(kernel_width), *same_padding(kernel_height)))


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def per_position_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Aggregate x (B, H, W, C) with weights of their own at each position, (B, H, W, G, k, k)."""
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[3:]
    compute = _accumulation_dtype(x.dtype)
    padded = pad_positions(x.to(compute), kernel_height, kernel_width)
    padded = padded.unflatten(-1, (groups, channels // groups))
    weight = weight.to(compute)
    total = x.new_zeros((batch, height, width, groups, channels // groups), dtype=compute)
    for i in range(kernel_height):
        for j in range(kernel_width):
            total = total + weight[..., i, j].unsqueeze(-1) * padded[:, i : i + height, j : j + width]
    return total.flatten(3).to(x.dtype)


def per_position_backward_reference(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `per_position_reference` for x and weight, written out."""
    height, width, channels = x.shape[1:]
    groups, kernel_height, kernel_width = weight.shape[3:]
    compute = _accumulation_dtype(x.dtype)
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


def shared_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Aggregate x (B, H, W, C) with static (G, k, k) or per-image (B, G, k, k) weights.

    Each is a depth-wise convolution: of C planes, or of B * C planes of one image.
    """
    batch, height, width, channels = x.shape
    kernel_height, kernel_width = weight.shape[-2:]
    weight = weight.repeat_interleave(channels // weight.shape[-3], dim=-3).to(x.dtype)
    padded = pad_positions(x, kernel_height, kernel_width).permute(0, 3, 1, 2)
    if weight.dim() == 4:
        padded = padded.reshape(1, batch * channels, *padded.shape[2:])
        weight = weight.flatten(0, 1)
    out = F.conv2d(padded, weight.unsqueeze(1), groups=padded.shape[1])
    return out.reshape(batch, channels, height, width).permute(0, 2, 3, 1).contiguous()


def generate_and_aggregate_reference(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """Make the weights of every position by one linear map of `hidden`, then aggregate x with them."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    return per_position_reference(x, generated)


def generate_and_aggregate_backward_reference(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `generate_and_aggregate_reference` for x, hidden, weight and bias."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    grad_x, grad_generated = per_position_backward_reference(grad, x, generated)
    grad_generated = grad_generated.flatten(0, 2).flatten(1)
    grad_hidden = (grad_generated @ weight).view_as(hidden)
    grad_weight = grad_generated.T @ hidden.flatten(0, 2)
    return grad_x, grad_hidden, grad_weight, grad_generated.sum(0)
