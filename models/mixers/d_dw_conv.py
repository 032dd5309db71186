"""D-DW-Conv: depth-wise convolution with kernels computed from the image (homogeneous dynamic)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..fused import FusedLinear, constant, linear_then_norm, plus
from ..layers import GlobalAvgPool, pointwise_conv, resize_kernel
from ..ops import local_aggregate
from . import register_mixer
from .base import LocalWeights, Properties, Variant
from .dw_conv import HomogeneousMixer


class ImageKernels(nn.Module):
    """The k x k kernels of one image for each channel group: (B, H, W, C) to (B, G, k, k) (section 2.4, appendix D).

    Global average pool, 1x1 conv C to C/4, BN, ReLU, 1x1 conv C/4 to G*k*k with bias; no sigmoid. The paper has a group
    for each channel. The BN sees one vector per image; a training batch of one image has no variance, and such a batch
    is normalised with the running statistics, so that the last odd batch of an epoch or a dense crop does not stop a
    run.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.groups, self.kernel_size = groups, kernel_size
        self.pool = GlobalAvgPool()
        self.reduce = pointwise_conv(dim, dim // reduction)
        self.norm = nn.BatchNorm2d(dim // reduction)
        self.act = nn.ReLU()
        self.expand = pointwise_conv(dim // reduction, groups * kernel_size**2, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self._normalize(self.reduce(self.pool(x))))
        return self.expand(hidden).view(-1, self.groups, self.kernel_size, self.kernel_size)

    def fold(self) -> None:
        """For inference: the norm and the ReLU into the first layer."""
        fold_generator(self)

    def _normalize(self, hidden: Tensor) -> Tensor:
        norm = self.norm
        if self.training and len(hidden) == 1 and isinstance(norm, _BatchNorm) and not _spans_ranks(norm):
            return F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(hidden[:, :, None, None])[:, :, 0, 0]


def _spans_ranks(norm: nn.Module) -> bool:
    """Whether the norm takes its statistics over several processes, each with an image of its own."""
    group = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
    return group and torch.distributed.get_world_size() > 1


class DynamicDepthwiseConv(nn.Module):
    """Depth-wise convolution of (B, H, W, C) with the kernels that ``generator`` gives for each image, plus a bias."""

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        if dim % groups:
            raise UserError(f"num_heads: {dim} channels cannot be split evenly into {groups} groups")
        self.generator = ImageKernels(dim, kernel_size, groups)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return local_aggregate(x, self.generator(x), self.bias)

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """The convolution and its bias."""
        return output.numel() * (self.generator.kernel_size**2 + 1)

    def absorb(self, scale: Tensor, shift: Tensor) -> bool:
        """For inference: take in a norm after the convolution; exact where each channel has kernels of its own."""
        generator: Any = self.generator
        if generator.groups != len(scale):
            return False
        expand, each = generator.expand, scale.repeat_interleave(generator.kernel_size**2)
        weight = constant(expand.weight.double() * each[:, None], expand.weight)
        generator.expand = FusedLinear(weight, constant(expand.bias.double() * each, expand.weight))
        self.bias = constant(plus(self.bias, shift, scale), expand.weight)
        return True


@register_mixer("d_dw_conv")
class DynamicDepthwise(HomogeneousMixer):
    """D-DW-Conv (section 2.4): the kernels are generated from the image."""

    family = "d_dw_conv"
    variants = {"d_dw_conv": Variant(label="D-DW-Conv.", figure="Dynamic DW-S Conv.")}
    dense_window_pad = True
    foreign_names = (
        *HomogeneousMixer.foreign_names,
        (r"attn2conv\.conv\.conv1\.weight$", "op.generator.reduce.weight"),
        (r"attn2conv\.conv\.bn\.", "op.generator.norm."),
        (r"attn2conv\.conv\.conv2\.(weight|bias)$", r"op.generator.expand.\1"),
        (r"attn2conv\.conv\.bias$", "op.bias"),
    )
    operator = DynamicDepthwiseConv
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="yes",
        shared_channels="no",
        dynamic=True,
    )

    def local_weights(self, x: Tensor) -> LocalWeights:
        return LocalWeights(self.op.generator(self.values(x)))

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        if name in ("op.generator.expand.weight", "op.generator.expand.bias"):
            return resize_generator(value, self.groups, self.window_size)
        return None


def fold_generator(generator: Any) -> None:
    """Fold the norm and the ReLU of a generator of kernels into its first layer."""
    generator.reduce = linear_then_norm(generator.reduce, generator.norm, "relu")
    generator.norm = generator.act = nn.Identity()


def resize_generator(value: Tensor, kernels: int, size: int) -> Tensor | None:
    """Resize what a kernel generator puts out, its last layer being linear: each input's kernels and the bias alike.

    ``value`` is (kernels * k * k, ...) with k found from its length; returns (kernels * size * size, ...).
    """
    taps = value.shape[0] // kernels
    old = round(taps**0.5)
    if old * old * kernels != value.shape[0]:
        return None
    rest = value.shape[1:]
    rows = value.reshape(kernels, old, old, -1).permute(0, 3, 1, 2)
    rows = resize_kernel(rows, size)
    return rows.permute(0, 2, 3, 1).reshape(kernels * size * size, *rest)
