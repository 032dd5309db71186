"""Generated weights on small maps on a CPU: each group's weights for a row, or for a whole map, as one matrix.

The loops of `cpu_position` over the taps become batched products. A tile is one output row with the k input rows that
it sees, or the whole map where k rows see all of it. The generator itself makes its matrix (positions, inputs): at each
position the rows of the last layer stand where their taps fall, and zeros where none falls. These zeros cost width / k
times the products, so this is for maps that are little wider than the kernel (:func:`pays`).

Channels stand before positions everywhere: of the two ways to write each of these short products this one is up to
three times faster. One matrix is used for all groups in turn, as new memory for each costs as much as a product.

The zeros make one NaN or infinity in a row or map reach all its outputs, not only those whose windows hold it.
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

    def taps(self) -> Tensor:
        """(positions * inputs,): the number of the tap that joins them, k * k where none does."""
        before = same_padding(self.kernel)[0]
        sizes = (self.positions // self.width, self.width), (self.inputs // self.width, self.width)
        return _joining_taps(*sizes, (self.kernel, self.kernel), (before if self.whole else 0, before))


def _joining_taps(
    outputs: tuple[int, int], inputs: tuple[int, int], kernel: tuple[int, int], before: tuple[int, int]
) -> Tensor:
    """The tap that joins each output position with each input position: (outputs * inputs,), rows before columns.

    The tap of input 0 at output 0 is ``before``; it is kernel[0] * kernel[1] where no tap joins the two.
    """
    steps = [
        torch.arange(there) - torch.arange(here)[:, None] + offset
        for here, there, offset in zip(outputs, inputs, before, strict=True)
    ]
    down, right = steps[0][:, None, :, None], steps[1][None, :, None, :]
    within = (down >= 0) & (down < kernel[0]) & (right >= 0) & (right < kernel[1])
    return torch.where(within, down * kernel[1] + right, kernel[0] * kernel[1]).flatten()


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
    placed = rows[:, :, tiles.taps()].unflatten(-1, (tiles.positions, tiles.inputs))
    return placed.transpose(1, 2).contiguous()


def _generator_gradient(placed: Tensor, tiles: _Tiles) -> tuple[Tensor, Tensor]:
    """Back from the gradient for the result of `_generator` to those for weight and bias."""
    depth = placed.shape[2]
    rows = placed.new_zeros(tiles.kernel**2 + 1, tiles.groups, depth)
    rows.index_add_(0, tiles.taps(), placed.permute(1, 3, 0, 2).reshape(-1, tiles.groups, depth))
    rows = rows[:-1].transpose(0, 1).reshape(-1, depth)
    return rows[:, :-1].clone(), rows[:, -1].clone()


def _hidden(hidden: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """(B, H, W, D) to (positions, D + 1, tiles), ones last for the bias."""
    by_tile = hidden.to(dtype).reshape(-1, tiles.positions, hidden.shape[-1]).permute(1, 2, 0)
    return F.pad(by_tile, (0, 0, 0, 1), value=1.0).contiguous()


def _planes(values: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """A view (G, B, C/G, H, W) of (B, H, W, C)."""
    return values.to(dtype).unflatten(-1, (tiles.groups, -1)).permute(3, 0, 4, 1, 2)


def _outputs(values: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) to (G, tiles, C/G, positions)."""
    rows = _planes(values, tiles, dtype).unflatten(3, (-1, tiles.positions // tiles.width))
    return rows.transpose(2, 3).reshape(tiles.groups, -1, rows.shape[2], tiles.positions)


def _from_outputs(outputs: Tensor, tiles: _Tiles, like: Tensor) -> Tensor:
    """Back from `_outputs` to a map of the shape and dtype of `like`."""
    rows = outputs.view(tiles.groups, like.shape[0], -1, outputs.shape[2], tiles.positions)
    return rows.permute(1, 2, 4, 0, 3).reshape(like.shape).to(like.dtype)


def _inputs(x: Tensor, tiles: _Tiles, dtype: torch.dtype) -> Tensor:
    """A view (G, B, H or 1, C/G, rows, width) of (B, H, W, C): the rows that each tile sees."""
    planes = _planes(x, tiles, dtype)
    if tiles.whole:
        return planes.unsqueeze(2)
    padded = F.pad(planes, (0, 0, *same_padding(tiles.kernel))).contiguous()
    return padded.unfold(3, tiles.kernel, 1).permute(0, 1, 3, 2, 5, 4)


def _add_inputs(total: Tensor, seen: Tensor, tiles: _Tiles) -> None:
    """Add what one group's tiles give back, (tiles, C/G, inputs), to the padded planes (B, C/G, rows, W)."""
    batch, width_of_group, rows, width = total.shape
    seen = seen.view(batch, -1, width_of_group, tiles.inputs // width, width).transpose(1, 2)
    if tiles.whole:
        total += seen.squeeze(2)
        return
    for by, row in enumerate(seen.unbind(3)):
        total[:, :, by : by + rows - tiles.kernel + 1] += row


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) or None -> (B, H, W, C)."""
    tiles, dtype = _Tiles(x.shape[1], x.shape[2], groups, kernel), accumulation_dtype(x.dtype)
    generator = _generator(weight, bias, tiles, dtype)
    parts = []
    for part, hidden_part in tiles.blocks(x, hidden):
        factors, inputs = _hidden(hidden_part, tiles, dtype).transpose(1, 2), _inputs(part, tiles, dtype)
        matrices = factors.new_empty(tiles.positions, factors.shape[1], tiles.inputs)
        out = inputs.new_empty(groups, factors.shape[1], inputs.shape[3], tiles.positions)
        for rows, seen, target in zip(generator, inputs, out, strict=True):
            torch.bmm(factors, rows, out=matrices)
            torch.bmm(seen.reshape(*target.shape[:2], tiles.inputs), matrices.permute(1, 2, 0), out=target)
        parts.append(_from_outputs(out, tiles, part))
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
        factors = _hidden(hidden_part, tiles, dtype)
        grad_factors = torch.zeros_like(factors)
        grad_inputs = _block_backward(
            _outputs(grad_part, tiles, dtype),
            _inputs(part, tiles, dtype),
            (factors, generator),
            (grad_factors, grad_generator),
            tiles,
        )
        parts.append(grad_inputs.permute(1, 3, 4, 0, 2).reshape(part.shape).to(x.dtype))
        hidden_parts.append(grad_factors[:, :-1].permute(2, 0, 1).reshape(hidden_part.shape).to(hidden.dtype))
    grad_weight, grad_bias = _generator_gradient(grad_generator, tiles)
    grad_bias = grad_bias.to(weight.dtype if bias is None else bias.dtype)
    return torch.cat(parts), torch.cat(hidden_parts), grad_weight.to(weight.dtype), grad_bias


def _block_backward(
    outputs: Tensor, inputs: Tensor, made_of: tuple[Tensor, Tensor], grad_made_of: tuple[Tensor, Tensor], tiles: _Tiles
) -> Tensor:
    """The gradient for the map (G, B, C/G, H, W) from that of the outputs (G, tiles, C/G, positions).

    Those for the hidden vectors and the generator, which the matrices are made of, are added to `grad_made_of`.
    """
    factors, generator = made_of
    grad_factors, grad_generator = grad_made_of
    count, width_of_group = outputs.shape[1:3]
    matrices = factors.new_empty(tiles.positions, count, tiles.inputs)
    grad_matrices = factors.new_empty(count, tiles.positions, tiles.inputs)
    by_position = grad_matrices.transpose(0, 1)
    grad_seen = factors.new_empty(count, width_of_group, tiles.inputs)
    above = 0 if tiles.whole else tiles.kernel - 1
    total = factors.new_zeros(tiles.groups, inputs.shape[1], width_of_group, tiles.height + above, tiles.width)
    groups = zip(outputs, inputs, generator, grad_generator, total, strict=True)
    for output, seen, rows, grad_rows, grad_input in groups:
        torch.bmm(factors.transpose(1, 2), rows, out=matrices)
        torch.bmm(output, matrices.transpose(0, 1), out=grad_seen)
        _add_inputs(grad_input, grad_seen, tiles)
        torch.bmm(output.transpose(1, 2), seen.reshape(grad_seen.shape), out=grad_matrices)
        grad_factors.baddbmm_(rows, by_position.transpose(1, 2))
        grad_rows.baddbmm_(factors, by_position)
    top = 0 if tiles.whole else same_padding(tiles.kernel)[0]
    return total[:, :, :, top : top + tiles.height]
