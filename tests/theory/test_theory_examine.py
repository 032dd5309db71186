"""The measurement itself: layers and matrices whose properties are known from how they are made."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.layers import apply_nchw
from models.mixers import BlockInfo, Mixer
from models.mixers.base import LocalWeights, Properties
from models.mixers.dw_conv import StaticDepthwise
from models.mixers.window_attention import WindowAttention
from models.theory.catalog import LAYERS, Setting
from models.theory.examine import Measurement, examine
from models.theory.matrix import connection_matrix
from models.theory.measure import measure
from models.theory.table import measure_layer

SITE = BlockInfo(dim=4, resolution=(6, 6), num_heads=2)


def measured(layer: nn.Module, size: tuple[int, int] = (6, 6), channels: int = 4) -> Measurement:
    return measure(layer, size, channels)


class HiddenConvolution(Mixer):
    """All that it does happens before a sum with the identity."""

    properties = replace(StaticDepthwise.properties, positions="only itself")

    def __init__(self) -> None:
        super().__init__(SITE, window_size=1)
        self.conv = nn.Conv2d(4, 4, 7, padding=3)

    def values(self, x: Tensor) -> Tensor:
        return apply_nchw(self.conv, x)

    def local_weights(self, x: Tensor) -> LocalWeights:
        return LocalWeights(torch.ones(1, 1, 1, dtype=x.dtype))


class GatedByTheMap(StaticDepthwise):
    forward = Mixer.forward

    def values(self, x: Tensor) -> Tensor:
        return x * x.mean((1, 2), keepdim=True).sigmoid()


class MeanAfterTheSum(StaticDepthwise):
    forward = Mixer.forward

    def output(self, y: Tensor) -> Tensor:
        return y + y.mean((1, 2), keepdim=True)


class NeighbourAfterTheSum(WindowAttention):
    forward = Mixer.forward

    def output(self, y: Tensor) -> Tensor:
        return y + 1e-6 * y.roll(1, 2)


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (HiddenConvolution, "values"),
        (lambda: GatedByTheMap(SITE, window_size=3), "values"),
        (lambda: MeanAfterTheSum(SITE, window_size=3), "output"),
        (lambda: NeighbourAfterTheSum(SITE, window_size=3), "output"),
    ],
)
def test_a_mixer_that_joins_positions_beside_the_sum_is_refused(build, part: str) -> None:
    with pytest.raises(ValueError, match=rf"its {part}\(\) at a position depends on others, beside the sum"):
        measured(build())


def test_what_it_defines_is_held_to_rounding_in_double_precision() -> None:
    class SlightLeak(StaticDepthwise):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1e-6 * x.roll(1, -1)

    with pytest.raises(ValueError, match="SlightLeak: what it computes is not the sum"):
        measured(SlightLeak(SITE, window_size=3))


# Rank by construction.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "setting", "rank"),
    [
        ("attention", Setting(heads=8), 36 * 8),  # exp(q_i k_j) of numbers: full rank, but decays into the rounding
        ("attention", Setting(size=(8, 8), window=4, channels=4), 64 * 4),
        ("pvt", Setting(heads=8), 9 * 8),
        ("pvt", Setting(heads=4), 9 * 8),
        ("dw_conv", Setting(size=(8, 8), window=2, channels=4), 64 * 4),  # triangular, its diagonal not zero
        ("low_rank_mlp", Setting(channels=4), 6 * 4),
    ],
)
def test_rank_is_by_construction(name: str, setting: Setting, rank: int, seed: int) -> None:
    assert measure_layer(LAYERS[name], setting, seed=seed).rank == rank


# Sparse connectivity between positions.


def reaching(pairs: Tensor) -> Measurement:
    """A matrix of one channel with random weights where ``pairs`` (H, W, H, W) is true, on a map of H x W."""
    height, width = pairs.shape[:2]
    weights = torch.rand(height * width, height * width, dtype=torch.float64) + 1
    matrix = (weights * pairs.reshape(height * width, -1))[:, None, :, None]
    return examine(matrix, matrix, (height, width))


def coordinates(height: int, width: int) -> tuple[Tensor, ...]:
    """Row and column of the output and of the input, each to broadcast to (H, W, H, W)."""
    rows, columns = torch.arange(height), torch.arange(width)
    return rows[:, None, None, None], columns[:, None, None], rows[:, None], columns


@pytest.mark.parametrize("size", [(6, 6), (6, 8)], ids=str)
def test_rows_and_grids_are_neither_a_window_nor_all(size: tuple[int, int]) -> None:
    row, column, of_row, of_column = coordinates(*size)
    own_row = (row == of_row) & (column >= 0) & (of_column >= 0)
    grid = (row % 2 == of_row % 2) & (column % 2 == of_column % 2)
    for pairs, span in ((own_row, f"1x{size[1]}"), (grid, f"{size[0] - 1}x{size[1] - 1}")):
        with pytest.raises(ValueError, match=f"spans {span} of a map of {size[0]}x{size[1]} and is not all of it"):
            reaching(pairs)


def test_a_window_as_large_as_the_map_is_all_only_where_all_is_reached() -> None:
    """A 3x3 after a 3x3 of dilation 2 reaches 3 far: 7 positions, more than the map has, but not from a corner."""
    layer = nn.Sequential(Nchw(nn.Conv2d(2, 2, 3, padding=1)), Nchw(nn.Conv2d(2, 2, 3, padding=2, dilation=2)))
    with pytest.raises(ValueError, match=r"spans 6x6 of a map of 6x6 and is not all of it.*too small to tell"):
        measured(layer, channels=2)
    found = measured(layer, (12, 10), 2)
    assert (found.properties.positions, found.window) == ("local window", (7, 7))
    assert found.properties.shared_positions == "yes"


def test_a_dilated_window_is_a_window() -> None:
    found = measured(Nchw(nn.Conv2d(2, 2, 3, padding=2, dilation=2)), (10, 12), 2)
    assert (found.properties.positions, found.window) == ("local window", (5, 5))


# Weights shared across positions.


class Nchw(nn.Module):
    """A layer of PyTorch's own on (B, H, W, C)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return apply_nchw(self.layer, x)


@pytest.mark.parametrize("size", [(6, 6), (5, 8)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate", groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    ],
    ids=["average", "reflect", "replicate", "circular", "zeros"],
)
def test_what_a_convolution_does_at_the_border_is_left_out(layer: nn.Module, size: tuple[int, int]) -> None:
    found = measured(Nchw(layer), size)
    assert (found.properties.positions, found.properties.shared_positions) == ("local window", "yes")
    assert found.window == (3, 3) and not found.partition


def test_a_window_without_two_whole_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="a map of 6x5 is too small: the window reaches 2 positions far"):
        measured(Nchw(nn.Conv2d(2, 2, (3, 4), padding="same", bias=False)), (6, 5), 2)


class SharedBlocks(nn.Module):
    """One n x n matrix for all windows of ``window`` that the map falls into."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(torch.randn(window[0] * window[1], window[0] * window[1]))

    def forward(self, x: Tensor) -> Tensor:
        (down, across), (batch, height, width, dim) = self.window, x.shape
        x = x.view(batch, height // down, down, width // across, across, dim).transpose(2, 3)
        y = torch.einsum("nm,bijmc->bijnc", self.weight, x.flatten(3, 4)).view(x.shape)
        return y.transpose(2, 3).reshape(batch, height, width, dim)


class OwnRows(nn.Module):
    """A convolution along each row with taps of its own: shared across, not down."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, 1, 1))
        return sum(self.taps[:, k, None, None] * padded[:, :, k : k + x.shape[2]] for k in range(3))


def test_the_period_is_found_along_each_axis() -> None:
    found = measured(SharedBlocks((2, 3)))
    assert (found.properties.shared_positions, found.period) == ("between windows", (2, 3))
    assert found.partition and found.window == (2, 3)
    assert measured(SharedBlocks((3, 2)), (6, 8)).period == (3, 2)
    found = measured(OwnRows())
    assert (found.properties.shared_positions, found.period) == ("no", (None, 1))


# Weights shared across channels.


def kernels_of(labels: list[int], *, connected: int = 1) -> Measurement:
    """A convolution of as many groups of ``connected`` channels, the kernels of the same label the same."""
    count = len(labels)
    layer = nn.Conv2d(count * connected, count * connected, 3, padding=1, groups=count, bias=False).double()
    each = torch.randn(max(labels) + 1, connected, connected, 3, 3, dtype=torch.float64)
    layer.weight.data = each[labels].flatten(0, 1)
    shape = (6, 6, count * connected)
    matrix = connection_matrix(lambda x: apply_nchw(layer, x), shape, torch.float64)
    return examine(matrix, matrix, (6, 6))


@pytest.mark.parametrize(
    ("labels", "connected", "sharing", "groups"),
    [
        ([0, 1, 0, 1, 0, 1], 1, "groups", 2),  # interleaved, as a channel shuffle leaves them
        ([0, 0, 0, 1, 1, 1], 1, "groups", 2),
        ([0, 0, 0, 0, 0, 1], 1, "no", 2),
        ([0, 1, 2, 3], 1, "no", 4),
        ([0, 0, 0, 0], 1, "all", 1),
        ([0, 0, 0], 2, "groups", 4),  # one set of 2 x 2 kernels for all groups of an ordinary convolution
        ([0, 1, 2], 2, "no", 12),
    ],
)
def test_groups_of_channels_in_any_order(labels: list[int], connected: int, sharing: str, groups: int) -> None:
    found = kernels_of(labels, connected=connected)
    assert (found.properties.shared_channels, found.channel_groups) == (sharing, groups)
    assert found.properties.channels_connected == (connected > 1)


@pytest.mark.parametrize("name", ["dw_conv", "d_dw_conv", "i_dynamic", "local_attention", "conv"])
def test_maps_need_not_be_square(name: str) -> None:
    setting = Setting(size=(6, 12), channels=4)
    declared: Properties = LAYERS[name].build(setting).properties  # type: ignore[assignment]
    assert measure_layer(LAYERS[name], setting).properties == declared
