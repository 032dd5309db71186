"""The same sums in operators that ONNX has, as a small graph that takes any batch size.

A convolution of B * C groups would fix the batch size in the file, so dynamic weights meet unfolded patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.cpu_shared import shared_forward
from models.ops.reference import pad_positions


def local_aggregate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `models.ops.local_aggregate`."""
    if weight.dim() == 3:
        return shared_forward(x, weight, bias)
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[-3:]
    padded = pad_positions(x, kernel_height, kernel_width).permute(0, 3, 1, 2)
    patches = F.unfold(padded, (kernel_height, kernel_width))
    taps = kernel_height * kernel_width
    patches = patches.reshape(batch, groups, channels // groups, taps, height * width)
    if weight.dim() == 4:
        out = torch.matmul(weight.reshape(batch, groups, 1, 1, taps), patches).squeeze(3)
    else:
        weight = weight.reshape(batch, height * width, groups, 1, taps).permute(0, 2, 3, 4, 1)
        out = (weight * patches).sum(3)
    out = out.reshape(batch, channels, height, width).permute(0, 2, 3, 1)
    return out if bias is None else out + bias


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """As `models.ops.generate_and_aggregate`."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    return local_aggregate(x, generated, None)
