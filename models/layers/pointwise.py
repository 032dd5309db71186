"""1x1 convolution and global pooling on NHWC maps."""

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv(nn.Conv2d):
    """1x1 convolution from C to D channels applied to the last axis of (..., C).

    It is a ``Conv2d`` by its parameters, initialisation and place in the paper's counters, and a matrix product by its
    computation: in NHWC memory the two are the same, and no layout is converted.
    """

    def __init__(self, dim: int, out_dim: int, *, bias: bool = False) -> None:
        super().__init__(dim, out_dim, kernel_size=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class GlobalAvgPool(nn.Module):
    """Mean over the positions of an NHWC map: (B, H, W, C) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))
