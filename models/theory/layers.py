"""The layers of Table 1 and Figure 4 that are not mixers of the zoo, small and plain, for analysis.

All map (B, H, W, C) to (B, H, W, C) and declare their properties. Layers with one weight for each pair of positions are
bound to the map size that they are built for.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import apply_nchw
from ..mixers.base import Properties, channel_sharing


def random_weight(*shape: int) -> nn.Parameter:
    """A parameter whose entries keep the scale of what they multiply: normal with variance 1 / last axis."""
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[-1]))


class Convolution(nn.Module):
    """Ordinary convolution without bias (equations 8 and 9); "circular" padding wraps as the printed matrix does."""

    properties: ClassVar = Properties(
        positions="local window", channels_connected=True, shared_positions="yes", shared_channels="no", dynamic=False
    )

    def __init__(
        self, dim: int, kernel: int | tuple[int, int], *, padding: Literal["zeros", "circular"] = "zeros"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel, padding="same", padding_mode=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return apply_nchw(self.conv, x)


class Pointwise(nn.Module):
    """1x1 convolution, the channel-mixing MLP (equation 11): one C x C matrix at all positions."""

    properties: ClassVar = Properties(
        positions="only itself", channels_connected=True, shared_positions="yes", shared_channels="no", dynamic=False
    )

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = random_weight(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class FullyConnected(nn.Module):
    """MLP in the paper's sense (equation 7): each neuron of the output sees each of the input; ``weight`` is W."""

    properties: ClassVar = Properties(
        positions="all", channels_connected=True, shared_positions="no", shared_channels="no", dynamic=False
    )

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        neurons = size[0] * size[1] * dim
        self.weight = random_weight(neurons, neurons)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight).view(x.shape)


class LowRankMLP(nn.Module):
    """A fully-connected layer whose matrix is a product of two of rank ``rank`` (equation 16)."""

    properties: ClassVar = Properties(
        positions="all",
        channels_connected=True,
        shared_positions="no",
        shared_channels="no",
        dynamic=False,
        low_rank=True,
    )

    def __init__(self, dim: int, size: tuple[int, int], *, rank: int) -> None:
        super().__init__()
        neurons = size[0] * size[1] * dim
        self.down, self.up = random_weight(rank, neurons), random_weight(neurons, rank)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x.flatten(1), self.down), self.up).view(x.shape)


class ChannelSeparableMLP(nn.Module):
    """Token mixer of MLP-Mixer and ResMLP (equation 10): an N x N matrix for each of ``groups`` groups of channels."""

    def __init__(self, dim: int, size: tuple[int, int], *, groups: int = 1) -> None:
        super().__init__()
        positions = size[0] * size[1]
        self.weight = random_weight(groups, positions, positions)
        self.properties = Properties(
            positions="all",
            channels_connected=False,
            shared_positions="no",
            shared_channels=channel_sharing(groups, dim),
            dynamic=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1, 2).unflatten(-1, (len(self.weight), -1))
        return torch.einsum("gnm,bmgc->bngc", self.weight, values).reshape(x.shape)


class AttentionWeights(nn.Module):
    """Softmax of the scaled products of queries and keys: (B, N, C), (B, N', C) to (B, heads, N, N')."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query, key = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, x), (self.key, context))
        )
        return torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), -1)


class GlobalAttention(nn.Module):
    """Attention of ViT over all positions. ``reduction`` pools keys and values first, as PVT does: spatial low rank."""

    def __init__(self, dim: int, *, heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.reduction = reduction
        self.weights = AttentionWeights(dim, heads)
        self.value, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.properties = Properties(
            positions="all",
            channels_connected=False,
            shared_positions="no",
            shared_channels=channel_sharing(heads, dim),
            dynamic=True,
            low_rank=reduction > 1,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.value_map(x)(self.value(x)))

    def value_map(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The sum over values (B, H, W, C) with the weights of the features x."""
        weights = self.weights(x.flatten(1, 2), self._context(x))

        def apply(values: Tensor) -> Tensor:
            heads = self._context(values).unflatten(-1, (self.weights.heads, -1)).transpose(1, 2)
            return (weights @ heads).transpose(1, 2).reshape(values.shape)

        return apply

    def _context(self, x: Tensor) -> Tensor:
        if self.reduction > 1:
            x = apply_nchw(nn.AvgPool2d(self.reduction), x)
        return x.flatten(1, 2)


class Pyramid(nn.Module):
    """A fully-connected layer at 1 / ``factor`` of the resolution, as a map between full-size maps (Appendix A).

    Pooling before and repetition after leave N'C x N'C weights with N' = N / factor^2.
    """

    properties: ClassVar = LowRankMLP.properties

    def __init__(self, dim: int, size: tuple[int, int], *, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.inner = FullyConnected(dim, (size[0] // factor, size[1] // factor))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(apply_nchw(nn.AvgPool2d(self.factor), x))
        return y.repeat_interleave(self.factor, 1).repeat_interleave(self.factor, 2)


class MultiScaleConvolution(nn.Module):
    """Parallel convolutions at several resolutions, the channels split between them, as HRNet has (equation 17).

    ``forward`` brings the branches back to the full map; ``branches`` gives them at their own sizes.
    """

    properties: ClassVar = Properties(
        positions="local window",
        channels_connected=True,
        shared_positions="between windows",
        shared_channels="no",
        dynamic=False,
        low_rank=True,
    )

    def __init__(self, dims: tuple[int, ...], *, kernel: int = 3) -> None:
        super().__init__()
        self.dims = dims
        self.convs = nn.ModuleList(nn.Conv2d(dim, dim, kernel, padding="same", bias=False) for dim in dims)

    def branches(self, x: Tensor) -> list[Tensor]:
        """Branch s is (B, H / 2^s, W / 2^s, C_s)."""
        parts = x.split(self.dims, dim=-1)
        pooled = [apply_nchw(nn.AvgPool2d(2**scale), part) for scale, part in enumerate(parts)]
        return [apply_nchw(conv, part) for conv, part in zip(self.convs, pooled, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        full = [
            branch.repeat_interleave(2**scale, 1).repeat_interleave(2**scale, 2)
            for scale, branch in enumerate(self.branches(x))
        ]
        return torch.cat(full, dim=-1)
