"""Local attention of Swin: softmax attention inside (shifted) windows, with a relative position bias."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..errors import UserError
from ..layers import resize_position_table
from . import register_mixer
from ._windows import from_windows, shift_mask, to_windows, window_shift
from .base import BlockInfo, Mixer, Properties, channel_sharing


def relative_position_index(window: int) -> Tensor:
    """Row of the position table for each pair of positions in a window: (n, n) with n = window^2."""
    axis = torch.arange(window)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = grid[:, :, None] - grid[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


@register_mixer("window_attention")
class WindowAttention(Mixer):
    """Local attention (equations 1 to 3): weights from softmax(q k / sqrt(d) + position bias) in each window.

    The window is at most as large as the map at the nominal input size; every second block shifts it by half. Maps
    that are no multiple of it are zero-padded, as Swin's dense backbones do. ``relative_position=False`` drops the
    position bias ("set representation", section 3.4).
    """

    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )

    def __init__(self, info: BlockInfo, *, window_size: int = 7, relative_position: bool = True) -> None:
        super().__init__()
        if info.dim % info.num_heads:
            raise UserError(f"num_heads: {info.dim} channels cannot be split evenly into {info.num_heads} heads")
        self.num_heads = info.num_heads
        self.window_size = min(window_size, *info.resolution)
        self.shift = self.window_size // 2 if info.index % 2 else 0
        self.qkv = nn.Linear(info.dim, 3 * info.dim)
        self.proj = nn.Linear(info.dim, info.dim)
        self.relative_position_index: Tensor
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position:
            table = torch.zeros((2 * self.window_size - 1) ** 2, info.num_heads)
            self.relative_position_bias_table = nn.Parameter(trunc_normal_(table, std=0.02))
            index = relative_position_index(self.window_size)
            self.register_buffer("relative_position_index", index, persistent=False)
        self.properties = replace(self.properties, shared_channels=channel_sharing(info.num_heads, info.dim))

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        shift = window_shift(size, self.window_size, self.shift)
        windows = to_windows(x, self.window_size, shift)
        y = self.proj(self._attend(windows, self._bias(size, shift, windows)))
        return from_windows(y, self.window_size, size, shift)

    def _attend(self, windows: Tensor, bias: Tensor | None) -> Tensor:
        """(B, windows, n, C) to the same; windows and heads share one axis, so that the bias is never repeated."""
        batch, count, n, dim = windows.shape
        qkv = self.qkv(windows).view(batch, count, n, 3, self.num_heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return y.view(batch, count, self.num_heads, n, -1).transpose(2, 3).reshape(batch, count, n, dim)

    def _bias(self, size: tuple[int, int], shift: tuple[int, int], windows: Tensor) -> Tensor | None:
        """Position bias plus shift mask, (1, windows * heads, n, n), or None where there is neither."""
        count, n = windows.shape[1:3]
        bias = None
        if self.relative_position_bias_table is not None:
            table = self.relative_position_bias_table.to(windows.dtype)
            bias = table[self.relative_position_index].permute(2, 0, 1)[None]
        if any(shift):
            mask = shift_mask(size, self.window_size, shift, windows)[:, None]
            bias = mask if bias is None else bias + mask
        if bias is None:
            return None
        return bias.expand(count, self.num_heads, n, n).reshape(1, count * self.num_heads, n, n)

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        if name == "relative_position_bias_table" and value.ndim == 2 and value.shape[1] == self.num_heads:
            return resize_position_table(value, self.window_size)
        return None
