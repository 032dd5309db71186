"""DW-Conv: the static depth-wise convolution of the paper, and the block around it that its dynamic forms share."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..fused import FusedDepthwise, Norm, NormedReLU, as_linear, fold_into_operator, linear_then_norm
from ..layers import DepthwiseConv, build_norm, normalize, pointwise_conv
from . import register_mixer
from .base import BlockInfo, LocalWeights, Mixer, Properties, Variant, channel_sharing


class DepthwiseMixer(Mixer):
    """1x1 conv, norm, ReLU, operator, norm, ReLU, 1x1 conv, norm (Table 7); no ReLU at the end.

    The operator is the sum over the local window; subclasses build it as a module from (B, H, W, C) to the same shape.
    ``window_pad`` zero-pads the map at the bottom and right to multiples of the window before everything and crops it
    after, as the authors' dense backbones do; at sizes that are multiples it changes nothing.
    """

    default_norm: ClassVar[str] = "bn"
    prenorm: ClassVar[bool] = False
    foreign_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"attn2conv\.conv0\.", "proj_in."),
        (r"attn2conv\.bn0\.", "norm_in."),
        (r"attn2conv\.bn\.", "norm_op."),
        (r"attn2conv\.conv2\.", "proj_out."),
        (r"attn2conv\.bn2\.", "norm_out."),
    )

    def __init__(self, info: BlockInfo, operator: nn.Module, *, window_size: int, window_pad: bool = False) -> None:
        super().__init__(info, window_size=window_size)
        self.op: Any
        dim, norm = info.dim, info.norm or self.default_norm
        self.window_pad = window_pad
        self.act = nn.ReLU()
        self.proj_in = pointwise_conv(dim, dim)
        self.norm_in = build_norm(norm, dim)
        self.op = operator
        self.norm_op = build_norm(norm, dim)
        self.proj_out = pointwise_conv(dim, dim)
        self.norm_out = build_norm(norm, dim)

    @classmethod
    def from_foreign(cls, name: str, value: Tensor) -> Tensor:
        """1x1 convolutions (D, C, 1, 1) as the linear layers that they are here."""
        return value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value

    def frame(self, x: Tensor) -> Tensor:
        if not self.window_pad:
            return x
        return F.pad(x, (0, 0, 0, -x.shape[2] % self.window_size, 0, -x.shape[1] % self.window_size))

    def values(self, x: Tensor) -> Tensor:
        return self.act(normalize(self.norm_in, self.proj_in(x)))

    def output(self, y: Tensor) -> Tensor:
        bias = getattr(self.op, "bias", None)
        return self._after(y if bias is None else y + bias)

    def _after(self, y: Tensor) -> Tensor:
        y = self.act(normalize(self.norm_op, y))
        return normalize(self.norm_out, self.proj_out(y))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y = self._after(self.op(self.values(self.frame(x))))
        return y[:, :height, :width] if self.window_pad else y

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """Nothing: the operator is a submodule, which counts itself."""
        return 0

    def fold(self) -> None:
        """For inference: 1x1 conv + norm, operator + norm, 1x1 conv + norm, each with its ReLU."""
        this: Any = self  # modules are replaced by fused ones of other types
        this.act = nn.Identity()
        if isinstance(self.norm_in, Norm):
            this.proj_in = linear_then_norm(self.proj_in, self.norm_in, "relu")
        else:
            this.proj_in = NormedReLU(as_linear(self.proj_in), self.norm_in)
        folded = fold_into_operator(self.op, self.norm_op)
        if folded and isinstance(self.op, DepthwiseConv):
            this.op = FusedDepthwise(self.op)
        else:
            this.op = NormedReLU(self.op, nn.Identity() if folded else self.norm_op)
        this.norm_in = this.norm_op = nn.Identity()
        if isinstance(self.norm_out, Norm):
            this.proj_out = linear_then_norm(self.proj_out, self.norm_out)
            this.norm_out = nn.Identity()
            this.adds_residual = not self.window_pad

    def added_to(self, x: Tensor) -> Tensor:
        """``x + mixer(x)`` of a folded mixer, the sum inside its last call."""
        return self.proj_out(self.op(self.proj_in(x)), residual=x)


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

    family = "dw_conv"
    variants = {
        "dw_conv": Variant(label="DW-Conv.", figure="DW-S Conv."),
        "dw_conv_shared": Variant(label="DW-Conv., shared across channels", options={"share_channels": True}),
    }
    dense_window_pad = True
    foreign_names = (*DepthwiseMixer.foreign_names, (r"attn2conv\.conv\.(weight|bias)$", r"op.\1"))
    operator = DepthwiseConv
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="yes",
        shared_channels="no",
        dynamic=False,
    )

    def local_weights(self, x: Tensor) -> LocalWeights:
        return LocalWeights(self.op.weight)

    @classmethod
    def from_foreign(cls, name: str, value: Tensor) -> Tensor:
        """Conv2d's (C, 1, k, k) as (C, k, k)."""
        return value.squeeze(1) if name == "op.weight" else super().from_foreign(name, value)
