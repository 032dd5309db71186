"""Static depth-wise convolution on NHWC maps."""

import math

import torch
from torch import Tensor, nn
from torch.nn import init

from models.layers.resize import resize_kernel
from models.ops import local_aggregate


class DepthwiseConv(nn.Module):
    """Depth-wise ``kernel_size`` x ``kernel_size`` convolution of (B, H, W, C) that keeps the map's size.

    ``groups`` kernels serve C channels: channel c uses kernel ``c // (C / groups)``. With ``groups == dim`` it is the
    ordinary depth-wise convolution, with fewer groups the channel-shared one of Table 10. Even kernels pad
    (k - 1) // 2 before and k // 2 after. Initialisation is that of ``nn.Conv2d``.
    """

    def __init__(self, dim: int, kernel_size: int, *, groups: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.dim, self.kernel_size, self.groups = dim, kernel_size, groups or dim
        if dim % self.groups:
            raise ValueError(f"groups: {self.groups} kernels cannot be shared evenly by {dim} channels")
        self.weight = nn.Parameter(torch.empty(self.groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Conv2d's default: both uniform within 1 / sqrt(fan-in), and the fan-in is the number of taps."""
        bound = 1 / math.sqrt(self.kernel_size**2)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return local_aggregate(x, self.weight, self.bias)

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        """Kernels of another size, interpolated (Table 5); None for anything else."""
        return resize_kernel(value, self.kernel_size) if name == "weight" and value.ndim == 3 else None

    def extra_repr(self) -> str:
        return f"{self.dim}, kernel_size={self.kernel_size}, groups={self.groups}, bias={self.bias is not None}"
