"""Appendix A, equation by equation, on connection matrices taken from the layers by autograd; and equation 4."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixers import BlockInfo, Mixer, build_mixer
from models.mixers.base import LocalWeights
from models.ops import local_aggregate
from models.theory.layers import (
    ChannelSeparableMLP,
    Convolution,
    FullyConnected,
    GlobalAttention,
    LowRankMLP,
    MultiScaleConvolution,
    Pointwise,
    Pyramid,
)
from models.theory.matrix import channel_by_channel, connection_matrix, position_by_position
from models.theory.measure import value_map
from models.theory.windows import window_of

N, C = 6, 3
LINE = (1, N)


def matrix_of(layer: nn.Module, size: tuple[int, int] = LINE, channels: int = C) -> Tensor:
    """(N, C, N, C) of a layer on a random image."""
    layer = layer.double()
    x = torch.randn(1, *size, channels, dtype=torch.float64)
    return connection_matrix(value_map(layer, x), (*size, channels), torch.float64)


def toeplitz(taps: Tensor, *, wrap: bool) -> Tensor:
    """Equation 8 for a window of 3: a_2 on the diagonal, a_1 before and a_3 after it, wrapped around as printed."""
    matrix = torch.zeros(N, N, dtype=taps.dtype)
    for i in range(N):
        for tap, offset in zip(taps, (-1, 0, 1), strict=True):
            if wrap or 0 <= i + offset < N:
                matrix[i, (i + offset) % N] = tap
    return matrix


def is_toeplitz(block: Tensor) -> bool:
    """Constant along its diagonals; the corners of a wrapped one belong to the diagonals beyond them."""
    return all(torch.allclose(d, d[:1].expand_as(d)) for d in (block.diagonal(k) for k in range(1 - N, N)))


def test_equation_7_mlp_is_its_matrix() -> None:
    layer = FullyConnected(C, LINE)
    x = torch.randn(1, *LINE, C, dtype=torch.float64)
    matrix = position_by_position(matrix_of(layer))
    torch.testing.assert_close(matrix, layer.weight.detach())
    torch.testing.assert_close(layer(x).flatten(), matrix @ x.flatten())


def test_equation_8_convolution_is_a_toeplitz_matrix() -> None:
    for padding in ("circular", "zeros"):
        layer = Convolution(1, (1, 3), padding=padding)
        expected = toeplitz(layer.conv.weight.detach().double().flatten(), wrap=padding == "circular")
        torch.testing.assert_close(channel_by_channel(matrix_of(layer, channels=1)), expected)


def test_equation_9_convolution_of_many_channels_is_a_block_of_them() -> None:
    layer = Convolution(C, (1, 3), padding="circular")
    matrix = channel_by_channel(matrix_of(layer))
    weight = layer.conv.weight.detach()[:, :, 0]
    expected = torch.cat([torch.cat([toeplitz(weight[o, i], wrap=True) for i in range(C)], 1) for o in range(C)])
    torch.testing.assert_close(matrix, expected)


@pytest.mark.parametrize("groups", [1, 3])
def test_equation_10_spatial_mlp_repeats_one_block_along_the_diagonal(groups: int) -> None:
    layer = ChannelSeparableMLP(C, LINE, groups=groups)
    blocks = [layer.weight.detach().double()[c * groups // C] for c in range(C)]
    torch.testing.assert_close(channel_by_channel(matrix_of(layer)), torch.block_diag(*blocks))


def test_equation_11_channel_mlp_repeats_one_block_at_each_position() -> None:
    layer = Pointwise(C)
    torch.testing.assert_close(
        position_by_position(matrix_of(layer)), torch.block_diag(*[layer.weight.detach().double()] * N)
    )


def test_equation_12_separable_mlp_is_a_kronecker_product() -> None:
    """vec(A mat(x) B) = (B^T kron A) vec(x), with A = W_p and B = W_c^T for the W_c of equation 10.

    mat(x) is C x N and vec stacks its columns, the positions.
    """
    spatial, channel = ChannelSeparableMLP(C, LINE), Pointwise(C)
    matrix = position_by_position(matrix_of(nn.Sequential(spatial, channel)))
    a, b = channel.weight.detach(), spatial.weight.detach()[0].T
    torch.testing.assert_close(matrix, torch.kron(b.T.contiguous(), a))
    x = torch.randn(1, *LINE, C, dtype=torch.float64)
    mat = x[0, 0].T
    torch.testing.assert_close(matrix @ x.flatten(), (a @ mat @ b).T.flatten())
    # The order of the two does not matter, as the product shows.
    torch.testing.assert_close(position_by_position(matrix_of(nn.Sequential(channel, spatial))), matrix)


def test_equation_13_depthwise_convolution_is_block_diagonal_and_toeplitz() -> None:
    mixer = build_mixer("dw_conv", BlockInfo(dim=C, resolution=LINE), window_size=3)
    matrix = channel_by_channel(matrix_of(mixer))
    taps = mixer.op.weight.detach()[:, 1]  # of a 3x3 kernel only the middle row lies on a line
    torch.testing.assert_close(matrix, torch.block_diag(*[toeplitz(taps[c], wrap=False) for c in range(C)]))


def dense_attention() -> nn.Module:
    """Local ViT in the extreme case that the windows lie as those of a convolution, with one head."""
    return build_mixer("conv_attention", BlockInfo(dim=C, resolution=LINE), window_size=3, form="dot_product")


def test_equation_14_local_attention_repeats_one_dynamic_block() -> None:
    mixer = dense_attention()
    nn.init.normal_(mixer.weights.qk.weight)
    first, second = (channel_by_channel(matrix_of(mixer)) for _ in range(2))
    torch.testing.assert_close(first, torch.block_diag(*[first[:N, :N]] * C))
    assert (first - second).abs().max() > 1e-3, "W^d is dynamic: another image, another matrix"


def test_equation_15_the_dynamic_block_is_banded_and_not_toeplitz() -> None:
    mixer = dense_attention()
    nn.init.normal_(mixer.weights.qk.weight)
    block = channel_by_channel(matrix_of(mixer))[:N, :N]
    band = toeplitz(torch.ones(3, dtype=torch.float64), wrap=False).bool()
    assert (block[band] > 0).all() and not block[~band].any()
    assert not is_toeplitz(block) and is_toeplitz(band.double())
    torch.testing.assert_close(block.sum(1), torch.ones(N, dtype=torch.float64))


def test_equation_14_swin_repeats_vit_over_each_window() -> None:
    """Without overlap: one block for each window and head, the same projections in all of them."""
    mixer = build_mixer("window_attention", BlockInfo(dim=4, resolution=(4, 4), num_heads=2), window_size=2).double()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    matrix = connection_matrix(value_map(mixer, x), (4, 4, 4), torch.float64).view(4, 4, 4, 4, 4, 4)
    for top in (0, 2):
        for left in (0, 2):
            window = slice(top, top + 2), slice(left, left + 2)
            alone = connection_matrix(value_map(mixer, x[:, window[0], window[1]]), (2, 2, 4), torch.float64)
            torch.testing.assert_close(matrix[window][:, :, :, window[0], window[1]].reshape(4, 4, 4, 4), alone)
            rest = matrix[window].clone()
            rest[:, :, :, window[0], window[1]] = 0
            assert not rest.any()


def test_equation_16_low_rank_mlp_is_a_product() -> None:
    layer = LowRankMLP(C, LINE, rank=4)
    matrix = position_by_position(matrix_of(layer))
    torch.testing.assert_close(matrix, layer.up.detach() @ layer.down.detach())
    assert torch.linalg.matrix_rank(matrix) == 4 < N * C


def test_pyramid_has_the_rank_of_a_quarter_of_the_positions() -> None:
    """The paragraph before equation 17: W (NC x NC) becomes W' (N'C x N'C) with N' = N / 4."""
    layer = Pyramid(2, (4, 6))
    assert layer.inner.weight.shape == (24 // 4 * 2, 24 // 4 * 2)
    assert torch.linalg.matrix_rank(position_by_position(matrix_of(layer, (4, 6), 2))) == 24 // 4 * 2


def test_equation_17_multi_scale_convolution_has_a_rank_for_each_resolution() -> None:
    dims = (1, 2, 1, 3)
    layer = MultiScaleConvolution(dims).double()
    x = torch.randn(1, 8, 8, sum(dims), dtype=torch.float64)
    assert [tuple(b.shape[1:]) for b in layer.branches(x)] == [(8, 8, 1), (4, 4, 2), (2, 2, 1), (1, 1, 3)]
    matrix = channel_by_channel(matrix_of(layer, (8, 8), sum(dims)))
    start = 0
    for scale, dim in enumerate(dims):
        part = slice(start, start + 64 * dim)
        assert torch.linalg.matrix_rank(matrix[part, part]) == 64 // 4**scale * dim
        start = part.stop
    assert torch.linalg.matrix_rank(matrix) == sum(64 // 4**scale * dim for scale, dim in enumerate(dims))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("reduction", [1, 2])
def test_the_value_map_of_global_attention_is_what_it_computes(reduction: int, heads: int) -> None:
    """Equations 1 to 3 as PyTorch has them, over all positions; PVT pools keys and values first."""
    layer = GlobalAttention(4, heads=heads, reduction=reduction).double()
    x = torch.randn(1, 4, 6, 4, dtype=torch.float64)
    pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), reduction).flatten(2).transpose(1, 2)
    theirs = nn.MultiheadAttention(4, heads, batch_first=True).double()
    parts = (layer.weights.query, layer.weights.key, layer.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(layer.proj.state_dict())
    expected = theirs(x.flatten(1, 2), pooled, pooled)[0].view(x.shape)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.proj(value_map(layer, x)(layer.value(x))), expected)


class Rolled(Mixer):
    """Weights of its own at each position, (H, W, 1, 3, 3), of a map that is rolled by (1, 2)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(BlockInfo(dim=2, resolution=size), window_size=3)
        self.weight = nn.Parameter(torch.randn(*size, 1, 3, 3))

    def local_weights(self, x: Tensor) -> LocalWeights:
        return LocalWeights(self.weight[None], (1, 2))


def test_the_window_of_an_output_on_a_rolled_map_is_its_row_of_the_matrix() -> None:
    size = (5, 6)
    mixer = Rolled(size).double()
    x = torch.randn(1, *size, 2, dtype=torch.float64)
    matrix = matrix_of(mixer, size, 2)[:, 0, :, 0].view(*size, *size)
    for row, column in ((0, 0), (1, 1), (3, 4), (4, 5)):
        window = window_of(mixer, x, (row, column), 0)
        up, left = window.centre
        spread = torch.zeros(size, dtype=torch.float64)
        at_row, at_column = (row - 1) % size[0], (column - 2) % size[1]  # on the rolled map, which has borders
        for i in range(3):
            for j in range(3):
                if 0 <= at_row + i - up < size[0] and 0 <= at_column + j - left < size[1]:
                    spread[(row + i - up) % size[0], (column + j - left) % size[1]] = window.weights[i, j]
        torch.testing.assert_close(matrix[row, column], spread)


def test_equation_4_is_equation_6_for_a_convolution() -> None:
    """Weights indexed by offset, given as one set for each position, are the grouped convolution of PyTorch."""
    mixer = build_mixer("dw_conv", BlockInfo(dim=8), window_size=5)
    values = torch.randn(2, 6, 9, 8)
    weight = mixer.local_weights(values[:1]).weight
    theirs = F.conv2d(values.permute(0, 3, 1, 2), weight[:, None], padding=2, groups=8).permute(0, 2, 3, 1)
    for form in (weight, weight.expand(2, -1, -1, -1), weight.expand(2, 6, 9, -1, -1, -1).contiguous()):
        torch.testing.assert_close(local_aggregate(values, form), theirs, rtol=1e-5, atol=1e-5)
