"""Local attention of Swin: softmax attention inside (shifted) windows, with a relative position bias."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..layers import resize_position_table
from . import register_mixer
from ._windows import (
    WindowMixer,
    from_windows,
    is_shifted,
    padded_tokens,
    relative_position_index,
    shift_mask,
    to_windows,
    window_shift,
)
from .base import BlockInfo, Properties, Variant, channel_sharing


def is_position_index(value: Tensor) -> bool:
    """Whether a checkpoint's index table is the one that follows from its size."""
    return value.is_meta or torch.equal(value.cpu(), relative_position_index(round(value.shape[0] ** 0.5)))


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention over (B, windows * heads, n, d), with ``bias`` added to the scores.

    No row of ``bias`` is -inf throughout.
    """
    if not (torch.onnx.is_in_onnx_export() or _is_learnt_on_a_cpu(bias)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    # Besides, both exporters give the fused operator's result a memory layout that it does not have.
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ value


def _is_learnt_on_a_cpu(bias: Tensor | None) -> bool:
    """Where PyTorch has no fused operator, and its own products also look for rows that are masked throughout."""
    return bias is not None and bias.device.type == "cpu" and bias.requires_grad and torch.is_grad_enabled()


def _make_index_anew(attention: "WindowAttention", *_: Any) -> None:
    """The index is in no file: a model made on the meta device, or emptied, has none when its weights are loaded."""
    assert attention.relative_position_bias_table is not None
    with torch.device(attention.relative_position_bias_table.device):
        attention.relative_position_index = relative_position_index(attention.window_size)


@register_mixer("window_attention")
class WindowAttention(WindowMixer):
    """Local attention (equations 1 to 3): weights from softmax(q k / sqrt(d) + position bias) in each window.

    Maps that are no multiple of the window are zero-padded, as Swin's dense backbones do. ``relative_position=False``
    drops the position bias ("set representation", section 3.4).
    """

    family = "swin"
    variants = {"local_attention": Variant(label="Local attention", figure="Local ViT")}
    dense_norm = "ln"
    no_weight_decay = ("relative_position_bias_table",)
    foreign_names = (
        (r"attn\.(qkv|proj)\.", r"\1."),
        (r"attn\.relative_position_bias_table$", "relative_position_bias_table"),
    )
    foreign_tables = {"attn_mask": lambda value: True, "relative_position_index": is_position_index}
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )

    def __init__(self, info: BlockInfo, *, window_size: int = 7, relative_position: bool = True) -> None:
        super().__init__(info, window_size=window_size)
        self.qkv = nn.Linear(info.dim, 3 * info.dim)
        self.proj = nn.Linear(info.dim, info.dim)
        self.relative_position_index: Tensor
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position:
            table = torch.zeros((2 * self.window_size - 1) ** 2, info.num_heads)
            self.relative_position_bias_table = nn.Parameter(trunc_normal_(table, std=0.02))
            index = relative_position_index(self.window_size)
            self.register_buffer("relative_position_index", index, persistent=False)
            self.register_load_state_dict_post_hook(_make_index_anew)
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
        y = attend(query, key, value, bias)
        return y.view(batch, count, self.num_heads, n, -1).transpose(2, 3).reshape(batch, count, n, dim)

    def _bias(self, size: tuple[int, int], shift: tuple[int, int], windows: Tensor) -> Tensor | None:
        """Position bias plus shift mask, (1, windows * heads, n, n), or None where there is neither."""
        count, n = windows.shape[1:3]
        bias = None
        if self.relative_position_bias_table is not None:
            table = self.relative_position_bias_table.to(windows.dtype)
            bias = table[self.relative_position_index].permute(2, 0, 1)[None]
        if is_shifted(shift):
            mask = shift_mask(size, self.window_size, shift, windows)[:, None]
            bias = mask if bias is None else bias + mask
        if bias is None:
            return None
        return bias.expand(count, self.num_heads, n, n).reshape(1, count * self.num_heads, n, n)

    def window_weights(self, x: Tensor) -> Tensor:
        """Equation 2, written out: the softmax over each window."""
        size = (x.shape[1], x.shape[2])
        shift = window_shift(size, self.window_size, self.shift)
        windows = to_windows(x, self.window_size, shift)
        query, key, _ = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).unbind(3)
        scores = torch.einsum("bwnhd,bwmhd->bwhnm", query, key) / math.sqrt(query.shape[-1])
        bias = self._bias(size, shift, windows)
        return (scores if bias is None else scores + bias.view(1, *scores.shape[1:])).softmax(-1)

    def values(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        return F.linear(x, self.qkv.weight[2 * dim :], self.qkv.bias[2 * dim :])

    def output(self, y: Tensor) -> Tensor:
        return self.proj(y)

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """The two products and the softmax, over the padded windows."""
        n, tokens = self.window_size**2, padded_tokens(self.window_size, output)
        return 2 * tokens * n * output.shape[-1] + rules.softmax * tokens * n * self.num_heads

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        if name == "relative_position_bias_table" and value.ndim == 2 and value.shape[1] == self.num_heads:
            return resize_position_table(value, self.window_size)
        return None
