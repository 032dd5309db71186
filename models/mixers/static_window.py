"""Static Swin: the attention weights of each window are parameters (Tables 4 and 10)."""

from dataclasses import replace
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..errors import UserError
from ..layers import resize_window_weights
from . import register_mixer
from ._windows import WindowMixer, from_windows, is_shifted, padded_tokens, shift_mask, to_windows, window_shift
from .base import BlockInfo, Properties, SharedPositions, Variant, channel_sharing


@register_mixer("static_window")
class StaticWindow(WindowMixer):
    """Window attention whose weights are learned: value and output projection stay, query and key are gone.

    Weights are (windows, heads, n, n), one set for each window of the map, or with ``share_windows`` (1, heads, n, n),
    one set for all. Shifted windows are masked as Swin's: no weight joins opposite borders. Both forms are bound to the
    input size that they were built for: another size is a UserError.
    """

    variants = {
        "static_window": Variant(label="Static windows"),
        "static_window_shared": Variant(label="Static windows, shared", options={"share_windows": True}),
    }
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=False,
    )

    def __init__(self, info: BlockInfo, *, window_size: int = 7, share_windows: bool = False) -> None:
        super().__init__(info, window_size=window_size)
        self.resolution = tuple(info.resolution)
        self.grid = (-(-info.resolution[0] // self.window_size), -(-info.resolution[1] // self.window_size))
        windows = 1 if share_windows else self.grid[0] * self.grid[1]
        n = self.window_size**2
        self.value = nn.Linear(info.dim, info.dim)
        self.weight = nn.Parameter(trunc_normal_(torch.zeros(windows, info.num_heads, n, n), std=0.02))
        self.proj = nn.Linear(info.dim, info.dim)
        positions: SharedPositions = "between windows" if share_windows else "no"
        channels = channel_sharing(info.num_heads, info.dim)
        self.properties = replace(self.properties, shared_positions=positions, shared_channels=channels)

    def frame(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        if size != self.resolution:
            raise UserError(
                f"static_window: the map is {size[0]}x{size[1]} but its weights belong to "
                f"{self.resolution[0]}x{self.resolution[1]}; build the model with the img_size of its input"
            )
        if torch.jit.is_tracing():
            x = x.expand(-1, *self.resolution, -1)  # a trace has no Python to refuse another size: this step does
        return super().frame(x)

    def window_weights(self, x: Tensor) -> Tensor:
        return self._masked((x.shape[1], x.shape[2])).expand(self.grid[0] * self.grid[1], -1, -1, -1)[None]

    def _masked(self, size: tuple[int, int]) -> Tensor:
        """The weights; in a shifted block without those that join opposite borders of the map, as Swin masks them."""
        shift = window_shift(size, self.window_size, self.shift)
        if not is_shifted(shift):
            return self.weight
        apart = shift_mask(size, self.window_size, shift, self.weight)  # (windows, n, n), -inf between borders
        return self.weight.masked_fill(apart[:, None] < 0, 0.0)

    def values(self, x: Tensor) -> Tensor:
        return self.value(x)

    def output(self, y: Tensor) -> Tensor:
        return self.proj(y)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        x = self.frame(x)
        shift = window_shift(size, self.window_size, self.shift)
        windows = to_windows(x, self.window_size, shift)
        batch, count, n, dim = windows.shape
        value = self.value(windows).view(batch, count, n, self.num_heads, -1).transpose(2, 3)
        y = torch.matmul(self._masked(size), value)
        y = self.proj(y.transpose(2, 3).reshape(batch, count, n, dim))
        return from_windows(y, self.window_size, size, shift)

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """The product with the values, over the padded windows."""
        return padded_tokens(self.window_size, output) * self.window_size**2 * output.shape[-1]

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        shared = self.weight.shape[0] == 1
        if name == "weight" and value.ndim == 4 and (value.shape[0] == 1) == shared:
            return resize_window_weights(value, self.grid, self.window_size)
        return None
