"""Static and per-image weights on a CPU: oneDNN's depth-wise convolution on NHWC memory.

Three things were measured to be slow and are avoided: a convolution of B * C planes in NCHW memory; the weight gradient
of a depth-wise convolution, which here is a depth-wise convolution itself, of the map with the gradient as its kernel;
and its input gradient (here the forward convolution with the kernel turned around).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import accumulation_dtype, reach, same_padding

# Images whose kernels differ lie side by side in the channels of one convolution: as many as a core's cache holds.
_PART_BYTES = 2**19


def _parts(x: Tensor) -> Iterator[slice]:
    """The images of x (B, H, W, C), a few at a time."""
    step = max(1, _PART_BYTES // max(x.shape[1:].numel() * x.element_size(), 1))
    return (slice(first, first + step) for first in range(0, x.shape[0], step))


def _side_by_side(x: Tensor) -> Tensor:
    """x (B, H, W, C) as one image (1, B * C, H, W) in NHWC memory."""
    return x.permute(1, 2, 0, 3).flatten(2).permute(2, 0, 1).unsqueeze(0)


def _pad(x: Tensor, kernel: tuple[int, int], before: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """x (B, C, H, W) padded as far as the convolution cannot do it itself, and the padding left to it."""
    after = kernel[0] - 1 - before[0], kernel[1] - 1 - before[1]
    if before == after:
        return x, before
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, before[1], after[1], before[0], after[0])).permute(0, 3, 1, 2)
    return x, (0, 0)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    """x (B, H, W, C), weight (C, k, k) -> (B, H, W, C), maybe a view of other memory."""
    planes, padding = _pad(x.permute(0, 3, 1, 2), (weight.shape[1], weight.shape[2]), before)
    return F.conv2d(planes, weight.unsqueeze(1), bias, padding=padding, groups=weight.shape[0]).permute(0, 2, 3, 1)


def _convolve_images(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    """The same with weight (B, C, k, k)."""
    out = torch.empty_like(x)
    for part in _parts(x):
        planes, padding = _pad(_side_by_side(x[part]), (weight.shape[2], weight.shape[3]), before)
        kernels = weight[part].flatten(0, 1).unsqueeze(1)
        repeated = None if bias is None else bias.repeat(len(x[part]))
        maps = F.conv2d(planes, kernels, repeated, padding=padding, groups=kernels.shape[0])
        out[part] = maps[0].unflatten(0, (-1, x.shape[3])).permute(0, 2, 3, 1)
    return out


def _aggregate(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    rows = reach(weight.shape[-2], before[0], x.shape[1])
    columns = reach(weight.shape[-1], before[1], x.shape[2])
    before = before[0] - rows.start, before[1] - columns.start
    weight = weight[..., rows, columns].to(x.dtype)
    if weight.shape[-3] != x.shape[-1]:
        weight = weight.repeat_interleave(x.shape[-1] // weight.shape[-3], dim=-3)
    bias = None if bias is None else bias.to(x.dtype)
    convolve = _convolve if weight.dim() == 3 else _convolve_images
    return convolve(x.contiguous(), weight, bias, before).contiguous()


def shared_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, H, W, C), weight (G, k, k) or (B, G, k, k), bias (C,) or None -> (B, H, W, C)."""
    before = same_padding(weight.shape[-2])[0], same_padding(weight.shape[-1])[0]
    return _aggregate(x, weight, bias, before)


def all_taps(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`shared_forward` for static weights, without a look at the map's size, for graphs of any size."""
    before = same_padding(weight.shape[-2])[0], same_padding(weight.shape[-1])[0]
    repeats = int(x.shape[-1]) // weight.shape[0]
    if repeats > 1:  # the older exporter of ONNX wants a kernel of known shape
        weight = weight.repeat_interleave(repeats, dim=0)
    return _convolve(x, weight, bias, before).contiguous()


def shared_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient for x: the same sum with every kernel turned around and the padding swapped."""
    before = same_padding(weight.shape[-2])[1], same_padding(weight.shape[-1])[1]
    return _aggregate(grad, weight.flip(-1, -2), None, before)


def shared_grad_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient for weight (G, k, k) or (B, G, k, k); taps that never meet the map have none."""
    (top, _), (left, _) = same_padding(weight.shape[-2]), same_padding(weight.shape[-1])
    rows, columns = reach(weight.shape[-2], top, x.shape[1]), reach(weight.shape[-1], left, x.shape[2])
    compute = accumulation_dtype(x.dtype)
    total = torch.zeros_like(weight, dtype=compute, memory_format=torch.contiguous_format)
    live = total[..., rows, columns]
    before = top - rows.start, left - columns.start
    for part in _parts(x):
        of_images = _live_grad_weight(grad[part].to(compute), x[part].to(compute), live.shape[-3:], before)
        if weight.dim() == 4:
            live[part] = of_images
        else:
            live += of_images.sum(0)
    return total.to(weight.dtype)


def _live_grad_weight(grad: Tensor, x: Tensor, kernels: torch.Size, before: tuple[int, int]) -> Tensor:
    """The gradient (B, G, k, k) for kernels (G, k, k) all of whose taps meet the map."""
    planes, padding = _pad(_side_by_side(x), (kernels[1], kernels[2]), before)
    grad_planes = grad.permute(0, 3, 1, 2).flatten(0, 1).unsqueeze(1)
    taps = F.conv2d(planes, grad_planes, padding=padding, groups=planes.shape[1])
    return taps.reshape(x.shape[0], kernels[0], -1, *kernels[1:]).sum(2)
