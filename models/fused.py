"""The layers of a fused model (:func:`models.fuse`), and how norms are folded into them."""

from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .layers import DepthwiseConv, is_plain, normalize
from .ops.inference import ACTIVATIONS, PackedWeight, depthwise_relu, linear, runs_eagerly

Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def constant(value: Tensor, like: Tensor) -> nn.Parameter:
    """A weight of a fused model, in the dtype of the one it comes from."""
    return nn.Parameter(value.to(like.dtype).clone(), requires_grad=False)


class FusedLinear(nn.Module):
    """A linear layer or 1x1 convolution on the last axis, with a norm folded in and its activation.

    ``linear`` holds the weights as an ordinary layer, which tools may watch or replace; it is called then.
    """

    applied_elsewhere = ("linear",)

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, activation: str = "none") -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.linear.weight, self.activation = weight, activation
        if bias is not None:
            self.linear.bias = bias
        self.packed = PackedWeight()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`residual`, of the output's shape, is added in the same call."""
        if is_plain(self.linear):
            return linear(x, self.linear.weight, self.linear.bias, self.activation, residual, self.packed)
        out = ACTIVATIONS[self.activation](self.linear(x))
        return out if residual is None else out + residual

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


class ChannelAffine(nn.Module):
    """``x * scale + shift`` for each channel of (B, C, H, W): a batch norm that has no linear neighbour."""

    def __init__(self, scale: nn.Parameter, shift: nn.Parameter) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])


class NormedReLU(nn.Module):
    """A layer from (B, H, W, C) to the same, a norm that could not be folded into it (or none), and ReLU."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        x = normalize(self.norm, self.layer(x))
        return x.relu_() if runs_eagerly(x) else x.relu()


class FusedDepthwise(nn.Module):
    """A static depth-wise convolution of (B, H, W, C) with a norm folded in, and its ReLU."""

    def __init__(self, conv: DepthwiseConv) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_relu(x, self.weight, self.bias)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds, in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("fuse: a batch norm without running statistics depends on the batch and cannot be folded")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def plus(bias: Tensor | None, shift: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    return shift if bias is None else bias.double() * scale + shift


def as_linear(layer: Any, activation: str = "none") -> FusedLinear:
    """A linear layer as it is."""
    bias = None if layer.bias is None else constant(layer.bias, layer.weight)
    return FusedLinear(constant(layer.weight, layer.weight), bias, activation)


def linear_then_norm(layer: Any, norm: Norm, activation: str = "none") -> FusedLinear:
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.double() * scale[:, None]
    bias = constant(plus(layer.bias, shift, scale), layer.weight)
    return FusedLinear(constant(weight, layer.weight), bias, activation)


def norm_then_linear(norm: Norm, layer: Any, activation: str = "none") -> FusedLinear:
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.double()
    bias = constant(plus(layer.bias, weight @ shift), layer.weight)
    return FusedLinear(constant(weight * scale, layer.weight), bias, activation)


def fold_into_operator(operator: Any, norm: Any) -> bool:
    """Fold a norm into the operator before it; False where that is not exact and nothing was done.

    An operator that can take it in has a method ``absorb(scale, shift)`` that says whether it did.
    """
    if not isinstance(norm, Norm):
        return False
    scale, shift = scale_and_shift(norm)
    if not isinstance(operator, DepthwiseConv):
        return hasattr(operator, "absorb") and operator.absorb(scale, shift)
    weight = operator.weight.double().repeat_interleave(operator.dim // operator.groups, dim=0)
    operator.bias = constant(plus(operator.bias, shift, scale), operator.weight)
    operator.weight, operator.groups = constant(weight * scale[:, None, None], operator.weight), operator.dim
    return True
