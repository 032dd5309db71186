"""Per-position weights on a CPU, by blocks of rows that stay in the cache.

The map is kept as C/G planes of (H, W * G): one row of one plane lines up with one row of the weights of one offset, so
the sum is a few long multiply-adds per offset, each over consecutive memory. Generated weights live for one block only,
in the forward pass and, made again, in the backward pass; the whole (B, H, W, G*k*k) tensor never exists.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu_bands
from .reference import accumulation_dtype, reach, same_padding

# Weights of one block, in elements. Larger blocks pay fewer calls, smaller ones stay nearer to the core.
BLOCK_WEIGHTS = 1_500_000


class Block(NamedTuple):
    """Images [first, last) and rows [top, bottom) of them."""

    first: int
    last: int
    top: int
    bottom: int


class Shape(NamedTuple):
    """Sizes of one call: G groups of `width_of_group` channels, k x k taps."""

    batch: int
    height: int
    width: int
    groups: int
    width_of_group: int
    kernel_height: int
    kernel_width: int

    @property
    def taps(self) -> int:
        return self.kernel_height * self.kernel_width

    @property
    def line(self) -> int:
        """Length of one row of a plane."""
        return self.width * self.groups

    def blocks(self) -> Iterator[Block]:
        """Whole images where several fit a block, else rows of one image."""
        rows = max(1, BLOCK_WEIGHTS // (self.taps * self.line))
        images = max(1, rows // max(self.height, 1))
        rows = min(rows, self.height)
        for first in range(0, self.batch, images):
            for top in range(0, self.height, rows):
                yield Block(first, min(first + images, self.batch), top, min(top + rows, self.height))

    def windows(self, planes: Tensor, block: Block) -> list[Tensor]:
        """The padded planes moved by each offset, on the rows of a block: views (images, C/G, rows, line), k*k of them.

        They are made together: as many slices from Python take longer than the sums of a small block.
        """
        part = planes[block.first : block.last, :, block.top :]
        size = (*part.shape[:2], block.bottom - block.top, self.line)
        down, right = part.stride(2), self.groups * part.stride(3)
        moved = part.as_strided((self.kernel_height, self.kernel_width, *size), (down, right, *part.stride()))
        return [window for row in moved.unbind() for window in row.unbind()]


def _shape(x: Tensor, groups: int, kernel_height: int, kernel_width: int) -> Shape:
    batch, height, width, channels = x.shape
    return Shape(batch, height, width, groups, channels // groups, kernel_height, kernel_width)


def _to_planes(x: Tensor, shape: Shape, padded: bool) -> Tensor:
    """(B, H, W, C) to (B, C/G, H, W * G) in the accumulation dtype, zero-padded on request."""
    planes = x.unflatten(-1, (shape.groups, shape.width_of_group)).permute(0, 4, 1, 2, 3)
    planes = planes.to(accumulation_dtype(x.dtype))
    if padded:
        planes = F.pad(planes, (0, 0, *same_padding(shape.kernel_width), *same_padding(shape.kernel_height)))
    return planes.contiguous().flatten(3)


def _from_planes(planes: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
    planes = planes.unflatten(-1, (-1, shape.groups)).permute(0, 2, 3, 4, 1)
    return planes.to(dtype).flatten(3).contiguous()


def _crop(planes: Tensor, shape: Shape) -> Tensor:
    """Remove the padding of `_to_planes`."""
    top, left = same_padding(shape.kernel_height)[0], same_padding(shape.kernel_width)[0] * shape.groups
    return planes[:, :, top : top + shape.height, left : left + shape.line]


def _sum_block(out: Tensor, planes: Tensor, taps: Tensor, block: Block, shape: Shape) -> None:
    """Add to `out` (B, C/G, H, line) the sum over the window, for one block. taps: (k*k, images, rows, line)."""
    target = out[block.first : block.last, :, block.top : block.bottom]
    for tap, window in zip(taps.unsqueeze(2).unbind(), shape.windows(planes, block), strict=True):
        target.addcmul_(window, tap)


def _sum_block_backward(
    grad: Tensor, planes: Tensor, grad_planes: Tensor, taps: Tensor, block: Block, shape: Shape
) -> Tensor:
    """Add to `grad_planes` what a block gives back, and return the gradient for its taps, of their shape."""
    part = grad[block.first : block.last, :, block.top : block.bottom]
    product = torch.empty_like(part)
    grad_taps = torch.empty_like(taps)
    windows, grad_windows = shape.windows(planes, block), shape.windows(grad_planes, block)
    each = zip(windows, grad_windows, taps.unsqueeze(2).unbind(), grad_taps.unbind(), strict=True)
    for window, grad_window, tap, grad_tap in each:
        grad_window.addcmul_(part, tap)
        torch.mul(part, window, out=product)
        torch.sum(product, dim=1, out=grad_tap)
    return grad_taps


def _given_taps(weight: Tensor, block: Block, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The block's weights, taps first: (k*k, images, rows, line)."""
    part = weight[block.first : block.last, block.top : block.bottom].flatten(4)
    return part.permute(4, 0, 1, 2, 3).to(dtype).contiguous().flatten(3)


def per_position(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, H, W, C), weight (B, H, W, G, k, k) -> (B, H, W, C)."""
    shape = _shape(x, *weight.shape[3:])
    planes = _to_planes(x, shape, padded=True)
    out = planes.new_zeros(shape.batch, shape.width_of_group, shape.height, shape.line)
    for block in shape.blocks():
        _sum_block(out, planes, _given_taps(weight, block, shape, planes.dtype), block, shape)
    return _from_planes(out, shape, x.dtype)


def per_position_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for x and weight."""
    shape = _shape(x, *weight.shape[3:])
    planes, grad_out = _to_planes(x, shape, padded=True), _to_planes(grad, shape, padded=False)
    grad_planes = torch.zeros_like(planes)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for block in shape.blocks():
        taps = _given_taps(weight, block, shape, planes.dtype)
        grad_taps = _sum_block_backward(grad_out, planes, grad_planes, taps, block, shape)
        grad_taps = grad_taps.unflatten(-1, (shape.width, shape.groups)).permute(1, 2, 3, 4, 0)
        grad_weight[block.first : block.last, block.top : block.bottom].flatten(4).copy_(grad_taps)
    return _from_planes(_crop(grad_planes, shape), shape, x.dtype), grad_weight


class _Generator:
    """The linear map from `hidden` to the weights, with its rows sorted taps first.

    It works in the accumulation dtype: the product is short, and converting its result would cost more than it.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> None:
        self.hidden, self.shape, self.dtype = hidden, shape, accumulation_dtype(hidden.dtype)
        self.weight = weight.to(self.dtype).view(shape.groups, shape.taps, -1).transpose(0, 1).contiguous()
        self.bias: Tensor | None = None
        if bias is not None:
            self.bias = bias.to(self.dtype).view(shape.groups, shape.taps).t().contiguous().unsqueeze(1)

    def inputs(self, block: Block) -> Tensor:
        """The hidden vectors of a block, (positions, D)."""
        part = self.hidden[block.first : block.last, block.top : block.bottom]
        return part.reshape(-1, self.hidden.shape[-1]).to(self.dtype)

    def taps(self, block: Block) -> Tensor:
        """The block's weights, (k*k, images, rows, line)."""
        inputs = self.inputs(block).expand(self.shape.taps, -1, -1)
        columns = self.weight.transpose(1, 2)
        taps = torch.bmm(inputs, columns) if self.bias is None else torch.baddbmm(self.bias, inputs, columns)
        return taps.view(self.shape.taps, block.last - block.first, block.bottom - block.top, self.shape.line)


def _live(rows: Tensor, x: Tensor, groups: int, kernel: int) -> Tensor:
    """A view (G, k', k', ...) of the generator's rows (G*k*k, ...) whose taps can meet the map of x."""
    taps = reach(kernel, same_padding(kernel)[0], max(x.shape[1], x.shape[2]))
    return rows.view(groups, kernel, kernel, *rows.shape[1:])[:, taps, taps]


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """x (B, H, W, C), hidden (B, H, W, D), weight (G*k*k, D), bias (G*k*k,) or None -> (B, H, W, C)."""
    if cpu_bands.pays(x, hidden.shape[-1], groups, kernel):
        return cpu_bands.generate_and_aggregate(x, hidden, weight, bias, groups, kernel)
    weight = _live(weight, x, groups, kernel)
    bias = None if bias is None else _live(bias, x, groups, kernel).flatten()
    kernel, weight = weight.shape[1], weight.flatten(0, 2)
    shape = _shape(x, groups, kernel, kernel)
    generator = _Generator(hidden, weight, bias, shape)
    planes = _to_planes(x, shape, padded=True)
    out = planes.new_zeros(shape.batch, shape.width_of_group, shape.height, shape.line)
    for block in shape.blocks():
        _sum_block(out, planes, generator.taps(block), block, shape)
    return _from_planes(out, shape, x.dtype)


def generate_and_aggregate_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for x, hidden, weight and bias; each block's weights are made again."""
    if cpu_bands.pays(x, hidden.shape[-1], groups, kernel):
        return cpu_bands.generate_and_aggregate_backward(grad, x, hidden, weight, bias, groups, kernel)
    live_weight, live_bias = _live(weight, x, groups, kernel), None if bias is None else _live(bias, x, groups, kernel)
    grad_x, grad_hidden, rows, shifts = _generated_backward(grad, x, hidden, live_weight, live_bias)
    grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[0])
    _live(grad_weight, x, groups, kernel).copy_(rows)
    _live(grad_bias, x, groups, kernel).copy_(shifts)
    return grad_x, grad_hidden, grad_weight, grad_bias if bias is None else grad_bias.to(bias.dtype)


def _generated_backward(
    grad: Tensor, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for weight (G, k, k, D) and bias (G, k, k), in the accumulation dtype for these two."""
    groups, kernel = weight.shape[:2]
    weight, bias = weight.flatten(0, 2), None if bias is None else bias.flatten()
    shape = _shape(x, groups, kernel, kernel)
    generator = _Generator(hidden, weight, bias, shape)
    planes, grad_out = _to_planes(x, shape, padded=True), _to_planes(grad, shape, padded=False)
    grad_planes = torch.zeros_like(planes)
    grad_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    rows = generator.weight.flatten(0, 1)
    grad_rows = planes.new_zeros(rows.shape)
    grad_bias = planes.new_zeros(rows.shape[0])
    for block in shape.blocks():
        taps = generator.taps(block)
        grad_taps = _sum_block_backward(grad_out, planes, grad_planes, taps, block, shape)
        by_position = grad_taps.view(shape.taps, -1, groups).transpose(0, 1).reshape(-1, rows.shape[0])
        grad_bias += by_position.sum(0)
        inputs = generator.inputs(block)
        target = grad_hidden[block.first : block.last, block.top : block.bottom]
        target.copy_((by_position @ rows).view_as(target))
        grad_rows += by_position.t() @ inputs
    grad_weight = grad_rows.view(shape.taps, groups, -1).transpose(0, 1).reshape(groups, kernel, kernel, -1)
    grad_bias = grad_bias.view(shape.taps, groups).t().reshape(groups, kernel, kernel)
    return _from_planes(_crop(grad_planes, shape), shape, x.dtype), grad_hidden, grad_weight, grad_bias
