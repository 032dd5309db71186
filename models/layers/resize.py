"""Resizing of learned windows when the window or the input grows (Table 5, retraining at 384)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Interpolate (..., k, k) kernels to (..., size, size) so that each keeps its sum.

    The sum of a kernel is its response to a constant image. Bicubic interpolation keeps it only roughly; what is
    missing is spread over all taps. The same size returns the kernel as it is.
    """
    old = kernel.shape[-1]
    if old == size:
        return kernel
    flat = kernel.reshape(1, -1, old, old).float()
    resized = F.interpolate(flat, size=(size, size), mode="bicubic", align_corners=False) * (old / size) ** 2
    missing = flat.double().sum((2, 3), keepdim=True) - resized.double().sum((2, 3), keepdim=True)
    resized = resized + (missing / size**2).float()
    return resized.reshape(*kernel.shape[:-2], size, size).to(kernel.dtype)


def resize_position_table(table: Tensor, window: int) -> Tensor:
    """Bicubic interpolation of a relative position table ((2w-1)^2, heads) to another window, as Swin does."""
    old = round(table.shape[0] ** 0.5)
    new = 2 * window - 1
    if old == new:
        return table
    grid = table.T.reshape(1, -1, old, old).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(table.shape[1], new * new).T.contiguous().to(table.dtype)


def resize_window_weights(weights: Tensor, windows: tuple[int, int], window: int) -> Tensor:
    """Resize static window weights (rows * columns, heads, n, n) to a grid of ``windows`` and n = window^2.

    Weights of one window are shared by all (first axis 1) or belong to a grid assumed square, whose windows are
    repeated or dropped to the nearest one. Within a window, outputs and inputs are interpolated on their own w x w
    grids, the inputs so that each output's weights keep their sum.
    """
    count, heads, old_n, _ = weights.shape
    old = round(old_n**0.5)
    if count > 1:
        side = round(count**0.5)
        grid = weights.reshape(side, side, -1).permute(2, 0, 1)[None].float()
        grid = F.interpolate(grid, size=windows, mode="nearest")
        weights = grid[0].permute(1, 2, 0).reshape(windows[0] * windows[1], heads, old_n, old_n).to(weights.dtype)
    if old == window:
        return weights
    rows = resize_kernel(weights.reshape(*weights.shape[:3], old, old), window).flatten(3)
    outputs = rows.transpose(2, 3).reshape(1, -1, old, old)
    outputs = F.interpolate(outputs.float(), size=(window, window), mode="bicubic", align_corners=False)
    outputs = outputs.reshape(weights.shape[0], heads, window**2, window**2)
    return torch.transpose(outputs, 2, 3).contiguous().to(weights.dtype)
