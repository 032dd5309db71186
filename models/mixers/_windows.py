"""Cutting a map into windows, with shift and padding, for any height and width."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_shift(size: tuple[int, int], window: int, shift: int) -> tuple[int, int]:
    """The shift in each direction: none where one window already covers the map."""
    return (shift if size[0] > window else 0), (shift if size[1] > window else 0)


def to_windows(x: Tensor, window: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """(B, H, W, C) to (B, windows, window^2, C): zero-padded at bottom and right, then rolled by ``-shift``."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % window, 0, -x.shape[1] % window))
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(batch, -1, window * window, dim)


def from_windows(x: Tensor, window: int, size: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Tensor:
    """The inverse of :func:`to_windows`; ``size`` is the map's height and width before padding."""
    rows, columns = -(-size[0] // window), -(-size[1] // window)
    batch, dim = x.shape[0], x.shape[-1]
    x = x.view(batch, rows, columns, window, window, dim).transpose(2, 3)
    x = x.reshape(batch, rows * window, columns * window, dim)
    if any(shift):
        x = torch.roll(x, shift, (1, 2))
    return x[:, : size[0], : size[1]]


def shift_mask(size: tuple[int, int], window: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """Which positions of a shifted window were neighbours before the roll: (windows, n, n), 0 or -inf to be added.

    Built from the live size, so no input size is baked in.
    """
    regions = []
    for length, by in zip(size, shift, strict=True):
        padded = -(-length // window) * window
        index = torch.arange(padded, device=like.device)
        if by:
            regions.append((index >= padded - window).int() + (index >= padded - by).int())
        else:
            regions.append(torch.zeros_like(index, dtype=torch.int))
    region = regions[0][:, None] * 3 + regions[1][None, :]
    region = to_windows(region[None, :, :, None], window)[0, :, :, 0]
    apart = region[:, :, None] != region[:, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, float("-inf"))
