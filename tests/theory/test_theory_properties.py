"""Declared properties are measured ones, Table 1 is the paper's, and a planted fault of each property is caught."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from models.layers import DepthwiseConv
from models.mixers import BlockInfo, Mixer, build_mixer, list_mixers, mixer_variants
from models.mixers.base import LocalWeights
from models.mixers.conv_attention import FORMS
from models.mixers.d_dw_conv import DynamicDepthwise
from models.mixers.dw_conv import StaticDepthwise
from models.mixers.window_attention import WindowAttention
from models.theory.catalog import LAYERS, TABLE_1, Setting
from models.theory.examine import Measurement
from models.theory.layers import Convolution, FullyConnected, LowRankMLP
from models.theory.measure import measure
from models.theory.table import measure_layer, row

SETTING = Setting()
SITE = SETTING.block()
SHIFTED = Setting(shifted=True)
WIDE = Setting(size=(8, 8), window=4, channels=4)


def measured(layer: nn.Module, setting: Setting = SETTING) -> Measurement:
    return measure(layer, setting.size, setting.channels)


@pytest.mark.parametrize("name", LAYERS)
def test_declared_is_measured(name: str) -> None:
    layer = LAYERS[name]
    assert measure_layer(layer, SETTING).properties == layer.build(SETTING).properties


OPTIONS = [
    ("window_attention", {"relative_position": False}, SHIFTED),
    ("window_attention", {}, SHIFTED),
    ("window_attention", {}, WIDE),
    ("static_window", {}, SHIFTED),
    ("static_window", {"share_windows": True}, SHIFTED),
    ("static_window", {"share_windows": True}, WIDE),
    ("dw_conv", {"share_channels": True}, WIDE),
    ("dw_conv", {"window_pad": True}, SETTING),
    ("d_dw_conv", {"window_pad": True}, SETTING),
    ("d_dw_conv", {}, WIDE),
    ("d_dw_conv", {"share_channels": True}, SETTING),
    ("d_dw_conv", {"share_channels": True}, WIDE),
    ("i_dynamic", {"groups": 1}, SETTING),
    ("i_dynamic", {"groups": 8}, SETTING),
    ("i_dynamic", {"groups": 2, "window_pad": True}, WIDE),
    *[("conv_attention", {"form": form, "softmax": False}, SETTING) for form in FORMS],
]


@pytest.mark.parametrize(("name", "options", "setting"), OPTIONS)
def test_declared_is_measured_for_each_option(name: str, options: dict, setting: Setting) -> None:
    mixer = build_mixer(name, setting.block(), window_size=setting.window, **options)
    result = measured(mixer, setting)
    assert result.properties == mixer.properties
    assert result.window == (setting.window, setting.window)


@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("name", ["window_attention", "static_window", "conv_attention"])
def test_one_head_shares_all_channels_and_a_head_a_channel_none(name: str, heads: int) -> None:
    setting = Setting(heads=heads)
    mixer = build_mixer(name, setting.block(), window_size=setting.window)
    result = measured(mixer, setting)
    assert result.properties == mixer.properties and result.channel_groups == heads
    assert mixer.properties.shared_channels == ("all" if heads == 1 else "no")


def test_every_mixer_of_the_zoo_is_measured() -> None:
    assert {name for name, _ in mixer_variants().values()} == set(list_mixers())
    assert mixer_variants().keys() <= LAYERS.keys()


def test_table_1_is_the_papers(repo: Path) -> None:
    rows = yaml.safe_load((repo / "configs" / "tables" / "table1.yaml").read_text())["rows"]
    assert [entry["key"] for entry in rows] == list(TABLE_1)
    for entry in rows:
        assert row(measure_layer(TABLE_1[entry["key"]], SETTING).properties) == entry["paper"], entry["key"]


README_WORDS = {"local": "local window", "per head": "per group", "no": "-"}


def test_the_table_of_the_readme_is_measured(repo: Path) -> None:
    parts = (repo / "README.md").read_text().split("\n\n")
    head, _, *lines = next(part for part in parts if part.startswith("| operator | window ")).splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert names == ["operator", "window", "shared across positions", "shared across channels", "dynamic", "code"]
    measured = []
    for line in lines:
        _, *marks, code = (cell.strip() for cell in line.strip("|").split("|"))
        name = code[1 : code.index(".py]")]
        assert code == f"[{name}.py](models/mixers/{name}.py)" and (repo / "models" / "mixers" / f"{name}.py").exists()
        (key,) = (key for key, (mixer, variant) in mixer_variants().items() if mixer == name and variant.figure)
        found = row(measure_layer(LAYERS[key], SETTING).properties)
        columns = ("positions", "share_positions", "share_channels", "dynamic")
        assert [README_WORDS.get(mark, mark) for mark in marks] == [found[column] for column in columns], name
        measured.append(name)
    assert measured == ["window_attention", "dw_conv", "d_dw_conv", "i_dynamic"]


def test_windows_and_sliding_windows_are_told_apart() -> None:
    assert measure_layer(LAYERS["local_attention"], SETTING).partition
    assert not measure_layer(LAYERS["dw_conv"], SETTING).partition
    assert measure_layer(LAYERS["static_window_shared"], SETTING).period == (SETTING.window, SETTING.window)
    assert measure_layer(LAYERS["low_rank_mlp"], SETTING).rank == 48


# One planted fault for each property.


class OneWeightUntied(Convolution):
    """At one position one tap is larger than at the others."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        extra = torch.zeros_like(y)
        extra[:, 2, 3, 1] = 1e-3 * x[:, 2, 2, 0]
        return y + extra


class LeakAcrossChannels(nn.Module):
    properties = StaticDepthwise.properties

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + 1e-3 * y.roll(1, -1)


class LeakFromEverywhere(Convolution):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * x.mean((1, 2), keepdim=True)


class ChannelsOfAHeadDiffer(WindowAttention):
    forward = Mixer.forward

    def local_weights(self, x: Tensor) -> LocalWeights:
        own, dim = super().local_weights(x), x.shape[-1]
        factors = torch.linspace(1, 1.001, dim, dtype=x.dtype)[:, None, None]
        return LocalWeights(own.weight.repeat_interleave(dim // self.num_heads, -3) * factors, own.shift)


class SameKernels(nn.Module):
    """A generator that does not look at the image."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(dim, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.expand(len(x), -1, -1, -1)


class DynamicMadeStatic(DynamicDepthwise):
    def __init__(self, info: BlockInfo, *, window_size: int) -> None:
        super().__init__(info, window_size=window_size)
        self.op.generator = SameKernels(info.dim, window_size)


class FullRank(LowRankMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * x


FAULTS = {
    "shared_positions": (lambda: OneWeightUntied(8, 3), "no"),
    "channels_connected": (lambda: LeakAcrossChannels(8, 3), True),
    "positions": (lambda: LeakFromEverywhere(8, 3), "all"),
    "shared_channels": (lambda: ChannelsOfAHeadDiffer(SITE, window_size=3), "no"),
    "dynamic": (lambda: DynamicMadeStatic(SITE, window_size=3), False),
    "low_rank": (lambda: FullRank(8, (6, 6), rank=20), False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_measured(name: str) -> None:
    build, found = FAULTS[name]
    layer = build()
    result = measured(layer).properties
    assert getattr(result, name) == found != getattr(layer.properties, name)
    others = {key for key in FAULTS if key != name and getattr(result, key) != getattr(layer.properties, key)}
    # Between connected channels there are more weights to compare, so a leak is seen there as well.
    assert others <= ({"shared_channels"} if name == "channels_connected" else set())


class LeakBesideTheDefinition(WindowAttention):
    def _attend(self, windows: Tensor, bias: Tensor | None) -> Tensor:
        y = super()._attend(windows, bias)
        return y + 1e-3 * y.roll(1, -1)


class StaticMadeDynamic(StaticDepthwise):
    """Scales a declared static operator by what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + x.mean((1, 2), keepdim=True))


class NonLinear(Convolution):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize("cls", [LeakBesideTheDefinition, StaticMadeDynamic])
def test_a_mixer_that_computes_something_else_than_it_defines_is_refused(cls: type[Mixer]) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__}: what it computes is not the sum"):
        measured(cls(SITE, window_size=3))


def test_a_layer_that_is_not_linear_is_refused() -> None:
    with pytest.raises(ValueError, match="NonLinear: its map on the values is not linear"):
        measured(NonLinear(8, 3))


def test_measuring_changes_nothing() -> None:
    for layer in (StaticDepthwise(SITE, window_size=3).train(), FullyConnected(8, (6, 6)).eval()):
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        training = layer.training
        measured(layer)
        assert layer.training == training and all(not m._forward_hooks for m in layer.modules())
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
