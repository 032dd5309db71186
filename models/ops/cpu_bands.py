"""Generated weights on small maps on a CPU: each group's weights for a row, or for a whole map, as one matrix.

The loops of `cpu_position` over the taps become batched products. A tile is one output row with the k input rows that
it sees, or the whole map where k rows see all of it. The generator itself makes its matrix (positions, inputs): at each
position the rows of the last layer stand where their taps fall, and zeros where none falls. These zeros cost width / k
times the products, so this is for maps that are little wider than the kernel (:func:`pays`).

Three things were measured to be slow and are avoided: products whose result is tall and narrow (they are made
transposed), matrices of another order in memory for each of the products, and new memory for each block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import accumulation_dtype, same_padding

# Elements of one group's matrices that are in memory at a time.
BLOCK_MATRICES = 400_000


@dataclass(frozen=True)
class _Tiles:
    """Sizes of one call: a tile has `rows` output rows and sees `seen` input rows, `before` of them above the first."""

    height: int
    width: int
    groups: int
    kernel: int

    @property
    def whole(self) -> bool:
        """Whether a tile is the whole map."""
        return self.height <= self.kernel

    @property
    def positions(self) -> int:
        return self.width * (self.height if self.whole else 1)

    @property
    def inputs(self) -> int:
        return self.width * min(self.height, self.kernel)

    def blocks(self, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The maps, some images at a time."""
        images = max(1, BLOCK_MATRICES // (self.height * self.width * self.inputs))
        return zip(*(map.split(images) for map in maps), strict=True)

    def taps(self, device: torch.device) -> Tensor:
        """(positions * inputs,): the number of the tap that joins them, k * k where none does."""
        before = same_padding(self.kernel)[0]
        columns = torch.arange(self.width, device=device)
        rows = torch.arange(self.positions // self.width, device=device)
        seen = torch.arange(self.inputs // self.width, device=device)
        down = (seen - rows[:, None] + (before if self.whole else 0))[:, None, :, None]
        right = (columns - columns[:, None] + before)[None, :, None, :]
        within = (down >= 0) & (down < self.kernel) & (right >= 0) & (right < self.kernel)
        return torch.where(within, down * self.kernel + right, self.kernel**2).flatten()


def pays(x: Tensor, depth: int, groups: int, kernel: int) -> bool:
    """Whether these products cost less than `cpu_position`, for a hidden map of `depth` channels.

    A multiply-add of the loops takes about eight times as long as one of a product. The rows of the generator are
    repeated for each position of a tile, which few tiles do not repay.
    """
    tiles = _Tiles(x.shape[1], x.shape[2], groups, kernel)
    width = x.shape[3] // groups
    count = x.shape[0] * x.shape[1] * x.shape[2] // max(tiles.positions, 1)
    return count >= 2 * depth and tiles.inputs * (4 * depth + 3 * width) <= kernel**2 * (4 * depth + 8 * 3 * width)


def _generator(weight: Tensor, bias: Tensor | None, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """The last layer's rows where their taps fall: (G, positions, D + 1, inputs), the bias last in D + 1."""
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    rows = torch.cat([weight, bias[:, None]], 1).to(dtype).view(tiles.groups, tiles.kernel**2, -1)
    rows = F.pad(rows, (0, 0, 0, 1)).transpose(1, 2)
    placed = rows[:, :, tiles.taps(weight.device)].unflatten(-1, (tiles.positions, tiles.inputs))
    return placed.transpose(1, 2).contiguous()


def _generator_gradient(placed: Tensor, tiles: _Tiles) -> tuple[Tensor, Tensor]:
    """Back from the gradient for the result of `_generator` to those for weight and bias."""
    depth = placed.shape[2]
    rows = placed.new_zeros(tiles.kernel**2 + 1, tiles.groups, depth)
    rows.index_add_(0, tiles.taps(placed.device), placed.permute(1, 3, 0, 2).reshape(-1, tiles.groups, depth))
    rows = rows[:-1].transpose(0, 1).reshape(-1, depth)
    return rows[:, :-1].clone(), rows[:, -1].clone()


def _hidden(hidden: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """(B, H, W, D) to (positions, tiles, D + 1), ones last for the bias."""
    by_tile = F.pad(hidden.to(dtype), (0, 1), value=1.0).reshape(-1, tiles.positions, hidden.shape[-1] + 1)
    return by_tile.transpose(0, 1).contiguous()


def _outputs(values: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) to (G, tiles, positions, C/G)."""
    by_tile = values.reshape(-1, tiles.positions, tiles.groups, values.shape[-1] // tiles.groups)
    return by_tile.permute(2, 0, 1, 3).to(dtype)


def _inputs(x: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) to (G, tiles, inputs, C/G): the rows that each tile sees."""
    if tiles.whole:
        return _outputs(x, tiles, dtype)
    padded = F.pad(x.to(dtype), (0, 0, 0, 0, *same_padding(tiles.kernel)))
    rows = padded.unflatten(-1, (tiles.groups, -1)).unfold(1, tiles.kernel, 1)  # (B, H, W, G, C/G, k)
    return rows.permute(3, 0, 1, 5, 2, 4).reshape(tiles.groups, -1, tiles.inputs, x.shape[-1] // tiles.groups)


def _inputs_gradient(grad: Tensor, tiles: _Tiles, like: Tensor) -> Tensor:
    """Back from (G, tiles, C/G, inputs) to a map like `like`: rows that several tiles saw add up."""
    batch, height, width, _ = like.shape
    grad = grad.view(tiles.groups, batch, -1, grad.shape[2], tiles.inputs // width, width)
    if tiles.whole:
        rows = grad.squeeze(2).transpose(2, 3)
    else:
        padded = grad.new_zeros(tiles.groups, batch, height + tiles.kernel - 1, grad.shape[3], width)
        for by in range(tiles.kernel):
            padded[:, :, by : by + height] += grad[:, :, :, :, by]
        top = same_padding(tiles.kernel)[0]
        rows = padded[:, :, top : top + height]
    return rows.permute(1, 2, 4, 0, 3).reshape(like.shape).to(like.dtype)


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) or None -> (B, H, W, C)."""
    tiles, dtype = _Tiles(x.shape[1], x.shape[2], groups, kernel), accumulation_dtype(x.dtype)
    generator = _generator(weight, bias, tiles, dtype)
    parts = []
    for part, hidden_part in tiles.blocks(x, hidden):
        factors, inputs = _hidden(hidden_part, tiles, dtype), _inputs(part, tiles, dtype)
        matrices = factors.new_empty(tiles.positions, factors.shape[1], tiles.inputs)
        out = inputs.new_empty(groups, inputs.shape[1], inputs.shape[3], tiles.positions)
        for group in range(groups):
            torch.bmm(factors, generator[group], out=matrices)
            torch.bmm(inputs[group].transpose(1, 2), matrices.permute(1, 2, 0), out=out[group])
        parts.append(out.permute(1, 3, 0, 2).reshape(part.shape).to(x.dtype))
    return torch.cat(parts)


def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for x, hidden, weight and bias; the matrices are made again."""
    tiles, dtype = _Tiles(x.shape[1], x.shape[2], groups, kernel), accumulation_dtype(x.dtype)
    generator = _generator(weight, bias, tiles, dtype)
    grad_generator = torch.zeros_like(generator)
    parts, hidden_parts = [], []
    for grad_part, part, hidden_part in tiles.blocks(grad, x, hidden):
        factors, inputs = _hidden(hidden_part, tiles, dtype), _inputs(part, tiles, dtype)
        outputs = _outputs(grad_part, tiles, dtype)
        matrices = factors.new_empty(tiles.positions, factors.shape[1], tiles.inputs)
        grad_matrices = matrices.view(factors.shape[1], tiles.positions, tiles.inputs)
        grad_inputs = inputs.new_empty(groups, inputs.shape[1], inputs.shape[3], tiles.inputs)
        grad_factors = torch.zeros_like(factors)
        for group in range(groups):
            torch.bmm(factors, generator[group], out=matrices)
            torch.bmm(outputs[group].transpose(1, 2), matrices.transpose(0, 1), out=grad_inputs[group])
            torch.bmm(outputs[group], inputs[group].transpose(1, 2), out=grad_matrices)
            by_position = grad_matrices.transpose(0, 1)
            grad_factors.baddbmm_(by_position, generator[group].transpose(1, 2))
            grad_generator[group].baddbmm_(factors.transpose(1, 2), by_position)
        parts.append(_inputs_gradient(grad_inputs, tiles, part))
        hidden_parts.append(grad_factors[..., :-1].transpose(0, 1).reshape(hidden_part.shape).to(hidden.dtype))
    grad_weight, grad_bias = _generator_gradient(grad_generator, tiles)
    grad_bias = grad_bias.to(weight.dtype if bias is None else bias.dtype)
    return torch.cat(parts), torch.cat(hidden_parts), grad_weight.to(weight.dtype), grad_bias
