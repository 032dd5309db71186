"""The layers that are measured: Table 1, Figure 4 and every mixer of the zoo with its options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import UserError, hint
from ..mixers import BlockInfo, build_mixer, list_mixers, mixer_options
from ..mixers.conv_attention import FORMS
from .layers import (
    ChannelSeparableMLP,
    Convolution,
    FullyConnected,
    GlobalAttention,
    LowRankMLP,
    MultiScaleConvolution,
    Pointwise,
    Pyramid,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a layer is measured: small, for the matrix has (positions * channels)^2 entries."""

    size: tuple[int, int] = (6, 6)
    window: int = 3
    channels: int = 8
    heads: int = 2
    shifted: bool = False
    """Whether window mixers stand in a block whose windows are shifted."""

    def block(self) -> BlockInfo:
        return BlockInfo(dim=self.channels, resolution=self.size, num_heads=self.heads, index=int(self.shifted))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer to be measured. ``figure`` is its name in Figure 4, empty where the figure leaves it out."""

    label: str
    build: Callable[[Setting], nn.Module]
    figure: str = ""
    size_factor: int = 1
    """Larger maps for layers that pool."""
    options: Mapping[str, Any] = field(default_factory=dict)


def _mixer(name: str, label: str, figure: str = "", **options: Any) -> Layer:
    def build(setting: Setting) -> nn.Module:
        given = {key: setting.heads if value is ... else value for key, value in options.items()}
        return build_mixer(name, setting.block(), window_size=setting.window, **given)

    return Layer(label=label, build=build, figure=figure, options=options)


# `...` stands for the number of heads of the setting.
TABLE_1: dict[str, Layer] = {
    "local_attention": _mixer("window_attention", "Local attention", "Local ViT"),
    "attention": Layer(label="Attention", figure="ViT", build=lambda s: GlobalAttention(s.channels, heads=s.heads)),
    "dw_conv": _mixer("dw_conv", "DW-Conv.", "DW-S Conv."),
    "d_dw_conv": _mixer("d_dw_conv", "D-DW-Conv.", "Dynamic DW-S Conv."),
    "conv": Layer(label="Conv.", figure="Conv.", build=lambda s: Convolution(s.channels, s.window)),
    "mlp": Layer(label="MLP", figure="MLP", build=lambda s: FullyConnected(s.channels, s.size)),
    "channel_sep_mlp": Layer(
        label="Channel Sep. MLP", figure="Sep. MLP", build=lambda s: ChannelSeparableMLP(s.channels, s.size)
    ),
    "conv_1x1": Layer(label="1x1 Conv.", figure="1x1 Conv.", build=lambda s: Pointwise(s.channels)),
}
"""The rows of Table 1, by the keys of configs/tables/table1.yaml."""

MORE: dict[str, Layer] = {
    "i_dynamic": _mixer("i_dynamic", "I-Dynamic", "I-Dynamic", groups=...),
    "dw_conv_shared": _mixer("dw_conv", "DW-Conv., shared across channels", share_channels=True),
    "static_window": _mixer("static_window", "Static windows"),
    "static_window_shared": _mixer("static_window", "Static windows, shared", share_windows=True),
    "low_rank_mlp": Layer(
        label="Low-rank MLP",
        figure="LR MLP",
        build=lambda s: LowRankMLP(s.channels, s.size, rank=s.size[0] * s.channels),
    ),
    "pyramid": Layer(label="Pyramid", figure="Pyramid", build=lambda s: Pyramid(s.channels, s.size)),
    "multi_scale_conv": Layer(
        label="Multi-scale conv.",
        figure="MS Conv.",
        size_factor=2,
        build=lambda s: MultiScaleConvolution((s.channels // 2, s.channels - s.channels // 2), kernel=s.window),
    ),
    "pvt": Layer(
        label="Attention on pooled keys",
        figure="PVT",
        build=lambda s: GlobalAttention(s.channels, heads=s.heads, reduction=2),
    ),
}
FORM_LAYERS: dict[str, Layer] = {
    f"conv_attention_{form}": _mixer("conv_attention", f"{form.replace('_', ' ')} (eq. {terms.equation})", form=form)
    for form, terms in FORMS.items()
}
LAYERS: dict[str, Layer] = {**TABLE_1, **MORE, **FORM_LAYERS}


def find_layer(name: str, options: Mapping[str, Any]) -> Layer:
    """A layer of the catalogue, or any mixer of the zoo with ``options``.

    Raises:
        UserError: no such layer or option, with the nearest.
    """
    if name in list_mixers() and (options or name not in LAYERS):
        for key in options:
            if key not in mixer_options(name):
                raise UserError(f"{key}: mixer {name!r} has no such option; {hint(key, mixer_options(name))}")
            default = mixer_options(name)[key].default
            if isinstance(default, bool | str) and type(options[key]) is not type(default):
                raise UserError(f"{key}: {options[key]!r} is not of the type of its default, {default!r}")
        return _mixer(name, name, **options)
    if name not in LAYERS:
        raise UserError(f"{name!r} is not a layer; {hint(name, [*LAYERS, *list_mixers()])}")
    if options:
        raise UserError(f"{name!r} takes no options; mixers of the zoo do: {', '.join(list_mixers())}")
    return LAYERS[name]
