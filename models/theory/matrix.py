"""The connection matrix of a map, by autograd."""

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 128


def connection_matrix(apply: Callable[[Tensor], Tensor], shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """The weights W of ``y = W x`` (equation 7) as (N, C, N, C): position and channel of the output, then of the input.

    Each row is the gradient of one output. A batch holds as many copies of the input as rows are computed, so one
    backward pass gives them all; images of a batch must not see each other.

    Args:
        apply: a linear (or affine) map of (B, H, W, C) to the same shape.
        shape: (H, W, C).
        dtype: of the computation; float64 keeps equal weights equal.
    """
    height, width, channels = shape
    neurons = height * width * channels
    units = torch.eye(neurons, dtype=dtype).view(neurons, *shape)
    rows = []
    for part in units.split(ROWS_AT_ONCE):
        x = torch.zeros(len(part), *shape, dtype=dtype, requires_grad=True)
        rows.append(torch.autograd.grad(apply(x), x, part)[0])
    positions = height * width
    return torch.cat(rows).view(positions, channels, positions, channels)


def channel_by_channel(matrix: Tensor) -> Tensor:
    """(N, C, N, C) as the CN x CN matrix of equations 9, 10, 13 and 14: all positions of a channel together."""
    positions, channels = matrix.shape[:2]
    return matrix.permute(1, 0, 3, 2).reshape(channels * positions, channels * positions)


def position_by_position(matrix: Tensor) -> Tensor:
    """(N, C, N, C) as the NC x NC matrix of equation 11: all channels of a position together."""
    positions, channels = matrix.shape[:2]
    return matrix.reshape(positions * channels, positions * channels)
