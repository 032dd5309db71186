"""DW-Conv: the static depth-wise convolution of the paper, and the block around it that its dynamic forms share."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import DepthwiseConv, PointwiseConv, build_norm, normalize
from . import register_mixer
from .base import BlockInfo, Mixer, Properties, channel_sharing


class DepthwiseMixer(Mixer):
    """1x1 conv, norm, ReLU, operator, norm, ReLU, 1x1 conv, norm (Table 7); no ReLU at the end.

    The operator is the sum over the local window; subclasses build it as a module from (B, H, W, C) to the same shape.
    ``window_pad`` zero-pads the map at the bottom and right to multiples of the window before everything and crops it
    after, as the authors' dense backbones do; at sizes that are multiples it changes nothing.
    """

    default_norm: ClassVar[str] = "bn"
    prenorm: ClassVar[bool] = False

    def __init__(self, info: BlockInfo, operator: nn.Module, *, window_size: int, window_pad: bool = False) -> None:
        super().__init__()
        dim, norm = info.dim, info.norm or self.default_norm
        self.window_size, self.window_pad = window_size, window_pad
        self.act = nn.ReLU()
        self.proj_in = PointwiseConv(dim, dim)
        self.norm_in = build_norm(norm, dim)
        self.op = operator
        self.norm_op = build_norm(norm, dim)
        self.proj_out = PointwiseConv(dim, dim)
        self.norm_out = build_norm(norm, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if self.window_pad:
            x = F.pad(x, (0, 0, 0, -width % self.window_size, 0, -height % self.window_size))
        x = self.act(normalize(self.norm_in, self.proj_in(x)))
        x = self.act(normalize(self.norm_op, self.op(x)))
        x = normalize(self.norm_out, self.proj_out(x))
        return x[:, :height, :width] if self.window_pad else x


class HomogeneousMixer(DepthwiseMixer):
    """One kernel per channel that is the same at every position.

    With ``share_channels`` the kernels are shared within as many channel groups as Swin has heads (Table 10).
    """

    operator: ClassVar[Callable[..., nn.Module]]
    """Builds the operator from (dim, kernel_size, groups=)."""

    def __init__(
        self, info: BlockInfo, *, window_size: int = 7, share_channels: bool = False, window_pad: bool = False
    ) -> None:
        groups = info.num_heads if share_channels else info.dim
        operator = type(self).operator(info.dim, window_size, groups=groups)
        super().__init__(info, operator, window_size=window_size, window_pad=window_pad)
        self.groups = groups
        self.properties = replace(self.properties, shared_channels=channel_sharing(groups, info.dim))


@register_mixer("dw_conv")
class StaticDepthwise(HomogeneousMixer):
    """DW-Conv (section 2.4): the kernels are parameters, the same for every image."""

    operator = DepthwiseConv
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="yes",
        shared_channels="no",
        dynamic=False,
    )
