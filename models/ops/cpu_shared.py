"""Static and per-image weights on a CPU: oneDNN's depth-wise convolution on NHWC memory.

Three things were measured to be slow and are avoided: a convolution of B * C planes in NCHW memory, the weight gradient
of a depth-wise convolution (here a batched matrix product, whose diagonals are the taps), and its input gradient (here
the forward convolution with the kernel turned around).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import joining_taps, reach, same_padding

# Above this number of positions one convolution per image is faster than moving the images into the channels.
_LOOP_POSITIONS = 1024

# From this number of images on, all pairs of positions of a small map cost less than the rows of `_live_grad_weight`.
_PAIRED_IMAGES = 16


def _pad(x: Tensor, kernel: tuple[int, int], before: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """x (B, C, H, W) padded as far as the convolution cannot do it itself, and the padding left to it."""
    after = kernel[0] - 1 - before[0], kernel[1] - 1 - before[1]
    if before == after:
        return x, before
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, before[1], after[1], before[0], after[0])).permute(0, 3, 1, 2)
    return x, (0, 0)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) in NHWC memory, weight (C, k, k) -> the same shape, NHWC memory."""
    x, padding = _pad(x, (weight.shape[1], weight.shape[2]), before)
    return F.conv2d(x, weight.unsqueeze(1), bias, padding=padding, groups=weight.shape[0])


def _convolve_images(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    """The same with weight (B, C, k, k)."""
    batch, channels, height, width = x.shape
    if batch == 1:
        return _convolve(x, weight[0], bias, before)
    if height * width > _LOOP_POSITIONS:
        parts = [_convolve(x[n : n + 1], weight[n], bias, before) for n in range(batch)]
        return torch.cat(parts)
    merged = x.permute(2, 3, 0, 1).reshape(1, height, width, batch * channels).permute(0, 3, 1, 2)
    bias = None if bias is None else bias.repeat(batch)
    out = _convolve(merged, weight.flatten(0, 1), bias, before)
    return out.view(batch, channels, height, width).contiguous(memory_format=torch.channels_last)


def _aggregate(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    rows = reach(weight.shape[-2], before[0], x.shape[1])
    columns = reach(weight.shape[-1], before[1], x.shape[2])
    before = before[0] - rows.start, before[1] - columns.start
    weight = weight[..., rows, columns].to(x.dtype)
    if weight.shape[-3] != x.shape[-1]:
        weight = weight.repeat_interleave(x.shape[-1] // weight.shape[-3], dim=-3)
    bias = None if bias is None else bias.to(x.dtype)
    convolve = _convolve if weight.dim() == 3 else _convolve_images
    out = convolve(x.contiguous().permute(0, 3, 1, 2), weight, bias, before)
    return out.permute(0, 2, 3, 1).contiguous()


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
    return _convolve(x.permute(0, 3, 1, 2), weight, bias, before).permute(0, 2, 3, 1).contiguous()


def shared_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient for x: the same sum with every kernel turned around and the padding swapped."""
    before = same_padding(weight.shape[-2])[1], same_padding(weight.shape[-1])[1]
    return _aggregate(grad, weight.flip(-1, -2), None, before)


def shared_grad_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient for weight (G, k, k) or (B, G, k, k); taps that never meet the map have none."""
    (top, _), (left, _) = same_padding(weight.shape[-2]), same_padding(weight.shape[-1])
    rows, columns = reach(weight.shape[-2], top, x.shape[1]), reach(weight.shape[-1], left, x.shape[2])
    total = torch.zeros_like(weight)
    live = weight[..., rows, columns]
    small = x.shape[1] <= live.shape[-2] and x.shape[2] <= live.shape[-1]
    paired = weight.dim() == 3 and small and x.shape[0] >= _PAIRED_IMAGES
    of_live = _paired_grad_weight if paired else _live_grad_weight
    total[..., rows, columns] = of_live(grad, x, live, (top - rows.start, left - columns.start))
    return total


def _paired_grad_weight(grad: Tensor, x: Tensor, weight: Tensor, before: tuple[int, int]) -> Tensor:
    """As `_live_grad_weight` for a static kernel and many small maps.

    One product sums over the images for each pair of positions; each pair then goes to the tap that joins it.
    """
    size, kernel = (x.shape[1], x.shape[2]), (weight.shape[1], weight.shape[2])
    grad_planes, x_planes = (map.permute(0, 3, 1, 2).flatten(2).contiguous() for map in (grad.to(x.dtype), x))
    pairs = torch.bmm(grad_planes.permute(1, 2, 0), x_planes.transpose(0, 1)).flatten(1)
    total = torch.zeros(x.shape[3], kernel[0] * kernel[1] + 1, dtype=torch.promote_types(x.dtype, torch.float32))
    total.index_add_(1, joining_taps(size, size, kernel, before), pairs.to(total.dtype))
    return total[:, :-1].view(weight.shape[0], -1, *kernel).sum(1).to(weight.dtype)


def _live_grad_weight(grad: Tensor, x: Tensor, weight: Tensor, before: tuple[int, int]) -> Tensor:
    """The gradient for a kernel all of whose taps meet the map.

    For one row offset i, the product over all rows of grad (W, rows) and the padded map (rows, W + k - 1) holds the sum
    for column offset j on its j-th diagonal.
    """
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[-3:]
    top, left = before
    bottom, right = kernel_height - 1 - top, kernel_width - 1 - left
    per_image = weight.dim() == 4
    # Planes (C, H, B, W), or (B, C, H, W): the rows that one offset pairs lie one after the other.
    order = (0, 1, 2, 3) if per_image else (1, 2, 0, 3)
    planes = batch * channels if per_image else channels
    step = 1 if per_image else batch
    rows = height * step
    columns = width + kernel_width - 1
    # Channels first in one step, and the images moved by whole rows after it, is faster than both at once.
    grad_planes, x_planes = (map.permute(0, 3, 1, 2).contiguous() for map in (grad.to(x.dtype), x))
    left_factor = grad_planes.permute(order).reshape(planes, rows, width).transpose(1, 2)
    padded = F.pad(x_planes, (left, right, top, bottom)).permute(order)
    padded = padded.reshape(planes, (height + kernel_height - 1) * step, columns)
    taps = []
    for i in range(kernel_height):
        product = torch.bmm(left_factor, padded[:, i * step : i * step + rows])
        diagonals = product.as_strided((planes, kernel_width, width), (width * columns, 1, columns + 1))
        taps.append(diagonals.sum(-1, dtype=torch.promote_types(x.dtype, torch.float32)))
    total = torch.stack(taps, dim=1).view(-1, groups, channels // groups, kernel_height, kernel_width).sum(2)
    return (total if weight.dim() == 4 else total.sum(0)).to(weight.dtype)
