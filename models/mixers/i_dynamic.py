"""I-Dynamic: weights computed at each position (inhomogeneous dynamic, appendix F and Table 11)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from ..layers import is_plain, normalize, pointwise_conv
from ..ops import generate_and_aggregate, local_aggregate
from . import register_mixer
from .base import BlockInfo, LocalWeights, Properties, Variant, channel_sharing
from .d_dw_conv import fold_generator, resize_generator
from .dw_conv import DepthwiseMixer


class PositionKernels(nn.Module):
    """The generator of each position's k x k weights for ``groups`` channel groups.

    At each position: 1x1 conv C to C/4 with bias, BN, ReLU, 1x1 conv C/4 to groups*k*k with bias. The module holds the
    parameters and gives the hidden map (B, H, W, C/4); its last layer is applied inside the aggregation, so that the
    groups*k*k weights per position need never be in memory together. Where somebody watches that layer or has put
    another in its place, it is called (:func:`models.layers.is_plain`).
    """

    applied_elsewhere = ("expand",)

    def __init__(self, dim: int, kernel_size: int, groups: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.groups, self.kernel_size = groups, kernel_size
        self.reduce = pointwise_conv(dim, dim // reduction, bias=True)
        self.norm = nn.BatchNorm2d(dim // reduction)
        self.act = nn.ReLU()
        self.expand = pointwise_conv(dim // reduction, groups * kernel_size**2, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(normalize(self.norm, self.reduce(x)))

    def fold(self) -> None:
        """For inference: the norm and the ReLU into the first layer."""
        fold_generator(self)


class InhomogeneousConv(nn.Module):
    """Aggregate (B, H, W, C) over the local window with weights generated at each position; no output bias."""

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        if groups < 1 or dim % groups:
            raise UserError(f"mixer_args.groups: {dim} channels cannot be split evenly into {groups} groups")
        self.generator = PositionKernels(dim, kernel_size, groups)

    def forward(self, x: Tensor) -> Tensor:
        generator = self.generator
        expand, groups, kernel = generator.expand, generator.groups, generator.kernel_size
        hidden = generator(x)
        if not is_plain(expand):
            return local_aggregate(x, expand(hidden).unflatten(-1, (groups, kernel, kernel)))
        return generate_and_aggregate(x, hidden, expand.weight, expand.bias, groups, kernel)

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """The sum, where it counts. The generator's last layer counts itself, as it is called when watched."""
        return rules.aggregation * self.apart_macs(output)

    def apart_macs(self, output: Tensor) -> int:
        """The sum over the window, which the paper's figures for classification leave out."""
        return output.numel() * self.generator.kernel_size**2


def _of_stage(groups: Sequence[int], stage: int) -> int:
    if not isinstance(groups, list | tuple) or len(groups) <= stage or not all(isinstance(n, int) for n in groups):
        raise UserError(f"mixer_args.groups: must be a number, or one for each stage, not {groups!r}")
    return groups[stage]


@register_mixer("i_dynamic")
class InhomogeneousDynamic(DepthwiseMixer):
    """I-Dynamic: 49 weights for each of ``groups`` channel groups at each position.

    ``groups`` is one number for all stages (the paper: 32) or one per stage; channel c belongs to group
    ``c // (C / groups)``.
    """

    family = "i_dynamic"
    variants = {"i_dynamic": Variant(label="I-Dynamic", figure="I-Dynamic", options={"groups": ...})}
    foreign_names = (
        *DepthwiseMixer.foreign_names,
        (r"attn2conv\.conv\.conv1\.0\.", "op.generator.reduce."),
        (r"attn2conv\.conv\.conv1\.1\.", "op.generator.norm."),
        (r"attn2conv\.conv\.conv2\.0\.", "op.generator.expand."),
    )
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )

    def __init__(
        self, info: BlockInfo, *, window_size: int = 7, groups: int | Sequence[int] = 32, window_pad: bool = False
    ) -> None:
        here = groups if isinstance(groups, int) else _of_stage(groups, info.stage)
        operator = InhomogeneousConv(info.dim, window_size, here)
        super().__init__(info, operator, window_size=window_size, window_pad=window_pad)
        self.groups = here
        self.properties = replace(self.properties, shared_channels=channel_sharing(here, info.dim))

    def local_weights(self, x: Tensor) -> LocalWeights:
        generator = self.op.generator
        weights = generator.expand(generator(self.values(x)))
        return LocalWeights(weights.unflatten(-1, (generator.groups, generator.kernel_size, generator.kernel_size)))

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        if name not in ("op.generator.expand.weight", "op.generator.expand.bias"):
            return None
        rows, taps = value.shape[0], self.window_size**2
        if rows > self.groups * taps and rows % taps == 0:
            size = f"{self.window_size}x{self.window_size}"
            raise UserError(
                f"{name}: {rows} rows, the kernels of {size} of {rows // taps} groups; the model has {self.groups} "
                f"(mixer_args.groups)"
            )
        return resize_generator(value, self.groups, self.window_size)
