"""What is measured: every variant of the zoo's mixers, and the layers of Table 1 and Figure 4 that are no mixers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UserError, hint
from ..mixers import BlockInfo, Variant, build_mixer, list_mixers, mixer_options, mixer_variants
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


def _mixer(name: str, variant: Variant) -> Layer:
    def build(setting: Setting) -> nn.Module:
        return build_mixer(name, setting.block(), window_size=setting.window, **variant.options_for(setting.heads))

    return Layer(label=variant.label, build=build, figure=variant.figure)


_OTHERS: dict[str, Layer] = {
    "attention": Layer(label="Attention", figure="ViT", build=lambda s: GlobalAttention(s.channels, heads=s.heads)),
    "conv": Layer(label="Conv.", figure="Conv.", build=lambda s: Convolution(s.channels, s.window)),
    "mlp": Layer(label="MLP", figure="MLP", build=lambda s: FullyConnected(s.channels, s.size)),
    "channel_sep_mlp": Layer(
        label="Channel Sep. MLP", figure="Sep. MLP", build=lambda s: ChannelSeparableMLP(s.channels, s.size)
    ),
    "conv_1x1": Layer(label="1x1 Conv.", figure="1x1 Conv.", build=lambda s: Pointwise(s.channels)),
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
_KNOWN = {key: _mixer(name, variant) for key, (name, variant) in mixer_variants().items()} | _OTHERS
_ROWS = ("local_attention", "attention", "dw_conv", "d_dw_conv", "conv", "mlp", "channel_sep_mlp", "conv_1x1")
TABLE_1: dict[str, Layer] = {key: _KNOWN[key] for key in _ROWS}
"""The rows of Table 1, by the keys of configs/tables/table1.yaml."""
MORE: dict[str, Layer] = {key: layer for key, layer in _KNOWN.items() if key not in TABLE_1}
"""The mixers and layers that are no row of Table 1."""
LAYERS: dict[str, Layer] = {**TABLE_1, **MORE}


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a mixer as its constructor takes them, of the type of its defaults.

    Raises:
        UserError: an option that it does not have, with the nearest, or of another type.
    """
    known = {key: value.default for key, value in mixer_options(name).items() if key != "window_size"}
    for key, value in options.items():
        if key == "window_size":
            raise UserError("window_size: is no option here, every layer is measured with the same window (--window)")
        if key not in known:
            raise UserError(f"{key}: mixer {name!r} has no such option; {hint(key, known)}")
        default = known[key]
        as_typed = not isinstance(default, bool | str) or type(value) is type(default)
        if not as_typed or (isinstance(default, int | float) and isinstance(value, str)):
            raise UserError(f"{key}: {value!r} is not of the type of its default, {default!r}")
    return dict(options)


def find_layer(name: str, options: Mapping[str, Any]) -> Layer:
    """A layer of the catalogue, or any mixer of the zoo with ``options``.

    Raises:
        UserError: no such layer or option, with the nearest.
    """
    if name in list_mixers() and (options or name not in LAYERS):
        return _mixer(name, Variant(label=name, options=checked_options(name, options)))
    if name not in LAYERS:
        raise UserError(f"{name!r} is not a layer; {hint(name, [*LAYERS, *list_mixers()])}")
    if options:
        raise UserError(f"{name!r} takes no options; mixers of the zoo do: {', '.join(list_mixers())}")
    return LAYERS[name]
