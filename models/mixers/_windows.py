"""Cutting a map into windows, with shift and padding, for any height and width, and what window mixers share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .base import BlockInfo, LocalWeights, Mixer


def relative_position_index(window: int) -> Tensor:
    """Row of the position table for each pair of positions in a window: (n, n) with n = window^2."""
    axis = torch.arange(window)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = grid[:, :, None] - grid[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def window_shift(size: tuple[int, int], window: int, shift: int) -> tuple[int, int]:
    """The shift in each direction: none where one window already covers the map."""
    if shift and torch.jit.is_tracing() and not torch.onnx.is_in_onnx_export():
        # Sizes are tensors here: a branch would hold for the traced size only, and be silently wrong for others.
        return shift * (size[0] > window), shift * (size[1] > window)
    return (shift if size[0] > window else 0), (shift if size[1] > window else 0)


def is_shifted(shift: tuple[int, int]) -> bool:
    """Whether a map is shifted; in a trace, whether it may be at some size."""
    return any(isinstance(by, Tensor) or by for by in shift)


def to_windows(x: Tensor, window: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """(B, H, W, C) to (B, windows, window^2, C): zero-padded at bottom and right, then rolled by ``-shift``."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % window, 0, -x.shape[1] % window))
    if is_shifted(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(batch, -1, window * window, dim)


def from_windows(x: Tensor, window: int, size: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Tensor:
    """The inverse of :func:`to_windows`; ``size`` is the map's height and width before padding."""
    # No negative numbers: ONNX divides towards zero.
    rows, columns = (size[0] + window - 1) // window, (size[1] + window - 1) // window
    batch, dim = x.shape[0], x.shape[-1]
    x = x.view(batch, rows, columns, window, window, dim).transpose(2, 3)
    x = x.reshape(batch, rows * window, columns * window, dim)
    if is_shifted(shift):
        x = torch.roll(x, shift, (1, 2))
    return x[:, : size[0], : size[1]]


def padded_tokens(window: int, output: Tensor) -> int:
    """Positions of the windows that cover a batch of maps (B, H, W, C)."""
    batch, height, width = output.shape[:3]
    return batch * (-(-height // window) * window) * (-(-width // window) * window)


def shift_mask(size: tuple[int, int], window: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """Which positions of a shifted window were neighbours before the roll: (windows, n, n), 0 or -inf to be added.

    Built from the live size, so no input size is baked in.
    """
    regions = []
    for length, by in zip(size, shift, strict=True):
        padded = (length + window - 1) // window * window  # as in from_windows
        index = torch.arange(padded, device=like.device)
        if isinstance(by, Tensor) or by:
            regions.append((index >= padded - window).int() + (index >= padded - by).int())
        else:
            regions.append(torch.zeros_like(index, dtype=torch.int))
    region = regions[0][:, None] * 3 + regions[1][None, :]
    region = to_windows(region[None, :, :, None], window)[0, :, :, 0]
    apart = region[:, :, None] != region[:, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, float("-inf"))


class WindowMixer(Mixer):
    """A mixer whose map is cut into windows that do not see each other, shifted by half in every second block.

    The window is at most as large as the map at the nominal input size. Weights are shared within heads.
    """

    exports_any_size = False  # whether windows are shifted is decided by the size

    def __init__(self, info: BlockInfo, *, window_size: int) -> None:
        super().__init__(info, window_size=min(window_size, *info.resolution))
        if info.dim % info.num_heads:
            raise UserError(f"num_heads: {info.dim} channels cannot be split evenly into {info.num_heads} heads")
        self.num_heads = info.num_heads
        self.shift = self.window_size // 2 if info.index % 2 else 0

    def window_weights(self, x: Tensor) -> Tensor:
        """The weights of a framed map, (B or 1, windows, heads, n, n): output position, then input position."""
        raise NotImplementedError

    def frame(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, -x.shape[2] % self.window_size, 0, -x.shape[1] % self.window_size))

    def local_weights(self, x: Tensor) -> LocalWeights:
        """The window's weights by offset: a sliding window of 2w - 1, zero outside the position's own window."""
        window, size = self.window_size, (x.shape[1], x.shape[2])
        weights = self.window_weights(x)
        side, n = 2 * window - 1, window**2
        index = relative_position_index(window).T  # counted from input to output, an offset from output to input
        spread = weights.new_zeros(*weights.shape[:4], side**2)
        spread.scatter_(-1, index.to(weights.device).expand(weights.shape), weights)
        flat = spread.transpose(2, 3).reshape(*weights.shape[:2], n, self.num_heads * side**2)
        on_map = from_windows(flat, window, size).unflatten(-1, (self.num_heads, side, side))
        on_map = on_map.expand(len(x), *on_map.shape[1:])
        return LocalWeights(on_map.contiguous(), window_shift(size, window, self.shift))
