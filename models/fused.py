"""The modules of a fused model (:func:`models.fuse`): no norm with statistics, no gradient."""

from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Block, Stage
from .layers import DepthwiseConv, normalize
from .ops.inference import PackedWeight, depthwise_relu, linear, runs_eagerly

# Elements of the widest map of a block, the hidden one of its MLP, that are worked on at a time. Above 32 MB the system
# allocates a map anew at each call, which costs more than the products; far below, oneDNN's calls are too short.
BLOCK_ELEMENTS = 5_000_000


def constant(value: Tensor, like: Tensor) -> nn.Parameter:
    """A weight of a fused model, in the dtype of the one it comes from."""
    return nn.Parameter(value.to(like.dtype).clone(), requires_grad=False)


class FusedLinear(nn.Module):
    """A linear layer or 1x1 convolution on the last axis, with a norm folded in and its activation."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = weight, bias, activation
        self.packed = PackedWeight()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`residual`, of the output's shape, is added in the same call."""
        return linear(x, self.weight, self.bias, self.activation, residual, self.packed)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, activation={self.activation!r}"


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


class FusedDepthwiseBlock(nn.Module):
    """A block of a depth-wise model whose norms are folded: five calls, the residual sums inside two of them.

    The names of its parts are those of :class:`models.backbone.Block`.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.mixer, self.norm2, self.mlp = block.mixer, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        mixer: Any = self.mixer
        mlp: Any = self.mlp
        x = mixer.proj_out(mixer.op(mixer.proj_in(x)), residual=x)
        return mlp.fc2(mlp.act(mlp.fc1(normalize(self.norm2, x))), residual=x)


class ImageBlockedStage(Stage):
    """A stage that works on a few images at a time, so that no map is too large for memory that is used again."""

    def forward(self, x: Tensor) -> Tensor:
        if not runs_eagerly(x):
            return super().forward(x)
        images = self._images(x)
        if images >= len(x):
            return super().forward(x)
        return torch.cat([super(ImageBlockedStage, self).forward(part) for part in x.split(images)])

    def _images(self, x: Tensor) -> int:
        # An MLP widens by four; merging quarters the positions and doubles the width.
        hidden = x.shape[1] * x.shape[2] * x.shape[3] * (4 if isinstance(self.downsample, nn.Identity) else 2)
        return max(1, BLOCK_ELEMENTS // hidden)
