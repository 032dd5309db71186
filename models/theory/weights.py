"""The weights of every mixer of the zoo in the one form of equation 4, which ``models.ops.local_aggregate`` sums."""

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import DepthwiseConv
from ..mixers._windows import from_windows, shift_mask, window_shift
from ..mixers.base import Mixer
from ..mixers.conv_attention import ConvAttention
from ..mixers.d_dw_conv import DynamicDepthwise
from ..mixers.dw_conv import StaticDepthwise
from ..mixers.i_dynamic import InhomogeneousConv, InhomogeneousDynamic
from ..mixers.static_window import StaticWindow
from ..mixers.window_attention import WindowAttention, relative_position_index
from ..ops import local_aggregate
from .measure import ValueMap


@dataclass(frozen=True)
class LocalWeights:
    """Weights ``w_ij`` of a mixer on one image, in any of the forms that ``local_aggregate`` takes."""

    weight: Tensor
    """(G, k, k), (B, G, k, k) or (B, H, W, G, k, k); the last on the padded and rolled map of a windowed mixer."""
    window: int = 1
    """Window size that the map is padded to multiples of."""
    shift: tuple[int, int] = (0, 0)
    """How far the map is rolled before the sum and back after it."""

    def aggregate(self, values: Tensor) -> Tensor:
        """``y_i = sum_j w_ij * x_ij`` (equation 4) for values (B, H, W, C)."""
        height, width = values.shape[1:3]
        padded = F.pad(values, (0, 0, 0, -width % self.window, 0, -height % self.window))
        rolled = torch.roll(padded, (-self.shift[0], -self.shift[1]), (1, 2))
        return torch.roll(local_aggregate(rolled, self.weight), self.shift, (1, 2))[:, :height, :width]


@singledispatch
def local_weights(mixer: Mixer, x: Tensor) -> LocalWeights:
    """The weights of ``mixer`` for the features ``x`` (1, H, W, C). TypeError for a mixer without a rule here."""
    raise TypeError(f"{type(mixer).__name__} has no rule in models/theory/weights.py")


@local_weights.register
def _static(mixer: StaticDepthwise, x: Tensor) -> LocalWeights:
    return LocalWeights(cast(DepthwiseConv, mixer.op).weight.detach())


@local_weights.register
def _per_image(mixer: DynamicDepthwise, x: Tensor) -> LocalWeights:
    return LocalWeights(ValueMap(mixer, x).recorded["op.generator"])


@local_weights.register
def _per_position(mixer: InhomogeneousDynamic, x: Tensor) -> LocalWeights:
    generator = cast(InhomogeneousConv, mixer.op).generator
    hidden = ValueMap(mixer, x).recorded["op.generator"]
    side = generator.kernel_size
    return LocalWeights(generator.expand(hidden).detach().unflatten(-1, (generator.groups, side, side)))


@local_weights.register
def _sliding(mixer: ConvAttention, x: Tensor) -> LocalWeights:
    return LocalWeights(ValueMap(mixer, x).recorded["weights"])


@local_weights.register
def _windows(mixer: WindowAttention, x: Tensor) -> LocalWeights:
    return _by_offset(attention_weights(mixer, x), mixer, x)


@local_weights.register
def _static_windows(mixer: StaticWindow, x: Tensor) -> LocalWeights:
    count = mixer.grid[0] * mixer.grid[1]
    return _by_offset(mixer.weight.detach().expand(count, -1, -1, -1)[None], mixer, x)


def attention_weights(mixer: WindowAttention, x: Tensor) -> Tensor:
    """Equation 2, written out: the softmax weights of each window and head, (B, windows, heads, n, n)."""
    size = (x.shape[1], x.shape[2])
    shift = window_shift(size, mixer.window_size, mixer.shift)
    query, key, _ = ValueMap(mixer, x).recorded["qkv"].unflatten(-1, (3, mixer.num_heads, -1)).unbind(3)
    scores = torch.einsum("bwnhd,bwmhd->bwhnm", query, key) / math.sqrt(query.shape[-1])
    if mixer.relative_position_bias_table is not None:
        scores = scores + mixer.relative_position_bias_table.detach()[mixer.relative_position_index].permute(2, 0, 1)
    if any(shift):
        scores = scores + shift_mask(size, mixer.window_size, shift, scores)[:, None]
    return scores.softmax(-1)


def _by_offset(weights: Tensor, mixer: WindowAttention | StaticWindow, x: Tensor) -> LocalWeights:
    """(B, windows, heads, n, n) as weights of a window of 2w - 1 around each position, zero outside its own window."""
    window, heads = mixer.window_size, mixer.num_heads
    size = (x.shape[1], x.shape[2])
    side, n = 2 * window - 1, window**2
    index = relative_position_index(window).T  # the table counts from input to output, an offset from output to input
    spread = weights.new_zeros(*weights.shape[:4], side**2)
    spread.scatter_(-1, index.expand(weights.shape), weights)
    flat = spread.transpose(2, 3).reshape(*weights.shape[:2], n, heads * side**2)
    padded = (size[0] + -size[0] % window, size[1] + -size[1] % window)
    on_map = from_windows(flat, window, padded).unflatten(-1, (heads, side, side))
    return LocalWeights(on_map.contiguous(), window, window_shift(size, window, mixer.shift))
