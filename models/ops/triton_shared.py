"""Static and per-image weights on a GPU: Triton kernels on NHWC memory, float32 accumulation.

The arithmetic is small against the traffic, so the kernel is built to read each input once from memory and few times
from the cache: a program owns TILE_H x TILE_W positions of BLOCK_C channels; at each of the k column offsets it loads
each input row once and adds it to every output row of the tile that it reaches. Its accumulators stay in registers.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import accumulation_dtype, same_padding
from .triton_common import on_device, or_plain, power_of_two, triton_dtype

# Warps of a program: with two, a thread holds four channels of each of a tile's rows.
_WARPS = 2


@triton.jit
def _forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    channels,
    weight_image_stride,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    tile = tl.program_id(0)
    tiles_h, tiles_w = tl.cdiv(height, TILE_H), tl.cdiv(width, TILE_W)
    image = (tile // (tiles_h * tiles_w)).to(tl.int64)
    first_row = (tile // tiles_w) % tiles_h * TILE_H
    columns = tile % tiles_w * TILE_W + tl.arange(0, TILE_W)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < channels
    x_ptr += image * height * width * channels + c[None, :]
    out_ptr += image * height * width * channels + c[None, :]
    weight_ptr += image * weight_image_stride + c

    start = tl.zeros([TILE_W, BLOCK_C], dtype=ACC)
    if HAS_BIAS:
        start += tl.load(bias_ptr + c, mask=real, other=0.0).to(ACC)[None, :]
    rows = (start,) * TILE_H
    # A loop that is not unrolled keeps the weights of one column only in registers.
    for j in range(KERNEL_W):
        source = columns + j - LEFT
        column_exists = (source >= 0) & (source < width)
        for r in tl.static_range(TILE_H + KERNEL_H - 1):
            source_row = first_row + r - TOP
            mask = (column_exists & (source_row >= 0) & (source_row < height))[:, None] & real[None, :]
            at = (source_row * width + source)[:, None] * channels
            value = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
            updated = ()
            for o in tl.static_range(TILE_H):
                if r - o >= 0 and r - o < KERNEL_H:
                    tap = tl.load(weight_ptr + ((r - o) * KERNEL_W + j) * channels, mask=real, other=0.0).to(ACC)
                    updated = updated + (rows[o] + value * tap[None, :],)  # type: ignore[assignment]  # noqa: RUF005
                else:
                    updated = updated + (rows[o],)  # type: ignore[assignment]  # noqa: RUF005
            rows = updated
    for o in tl.static_range(TILE_H):
        mask = ((columns < width) & (first_row + o < height))[:, None] & real[None, :]
        at = ((first_row + o) * width + columns)[:, None] * channels
        tl.store(out_ptr + at, rows[o].to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _grad_weight_kernel(
    grad_ptr,
    x_ptr,
    part_ptr,
    height,
    width,
    channels,
    parts,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """TILE_H rows of one image, one kernel column: its KERNEL_H taps, summed over the rows."""
    image = (tl.program_id(0) // parts).to(tl.int64)
    first_row = tl.program_id(0) % parts * TILE_H
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    j = tl.program_id(2)
    real = c < channels
    grad_ptr += image * height * width * channels + c[None, :]
    x_ptr += image * height * width * channels + c[None, :]
    taps = (tl.zeros([TILE_W, BLOCK_C], dtype=ACC),) * KERNEL_H
    for first_column in range(0, width, TILE_W):
        columns = first_column + tl.arange(0, TILE_W)
        grads = ()
        for o in tl.static_range(TILE_H):
            mask = ((columns < width) & (first_row + o < height))[:, None] & real[None, :]
            at = ((first_row + o) * width + columns)[:, None] * channels
            grads = grads + (tl.load(grad_ptr + at, mask=mask, other=0.0).to(ACC),)  # type: ignore[assignment]  # noqa: RUF005
        source = columns + j - LEFT
        column_exists = (source >= 0) & (source < width)
        for r in tl.static_range(TILE_H + KERNEL_H - 1):
            source_row = first_row + r - TOP
            mask = (column_exists & (source_row >= 0) & (source_row < height))[:, None] & real[None, :]
            at = (source_row * width + source)[:, None] * channels
            value = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
            updated = ()
            for i in tl.static_range(KERNEL_H):
                if r - i >= 0 and r - i < TILE_H:
                    updated = updated + (taps[i] + grads[r - i] * value,)  # type: ignore[assignment]  # noqa: RUF005
                else:
                    updated = updated + (taps[i],)  # type: ignore[assignment]  # noqa: RUF005
            taps = updated
    part_ptr += (tl.program_id(0).to(tl.int64) * KERNEL_H * KERNEL_W + j) * channels + c
    for i in tl.static_range(KERNEL_H):
        tl.store(part_ptr + i * KERNEL_W * channels, tl.sum(taps[i], axis=0), mask=real)


class _Tile(NamedTuple):
    """What one program works on, and how many there are."""

    rows: int
    columns: int
    channels: int
    parts: int
    """Tiles that the rows of a map are cut into."""
    channel_blocks: int


def _tile(x: Tensor) -> _Tile:
    """14 x 8 positions of 32 channels: 14 rows divide the paper's maps, and other heights are cut evenly."""
    height, channels = x.shape[1], x.shape[3]
    parts = triton.cdiv(height, 14)
    block = power_of_two(channels, least=16, most=32)
    return _Tile(triton.cdiv(height, parts), 8, block, parts, triton.cdiv(channels, block))


def _aggregate(x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, int]) -> Tensor:
    """The sum with `before` zeros above and to the left."""
    x = x.contiguous()
    batch, height, width, channels = x.shape
    kernel_height, kernel_width = weight.shape[-2:]
    # One row of channels for each tap, so that a program reads its weights as it reads the map.
    taps = weight.flatten(-2).transpose(-1, -2).repeat_interleave(channels // weight.shape[-3], dim=-1).contiguous()
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    tile = _tile(x)
    with on_device(x):
        _forward_kernel[(batch * tile.parts * triton.cdiv(width, tile.columns), tile.channel_blocks)](
            x,
            taps,
            taps if bias is None else bias.contiguous(),
            out,
            height,
            width,
            channels,
            taps.stride(0) if weight.dim() == 4 else 0,
            KERNEL_H=kernel_height,
            KERNEL_W=kernel_width,
            TOP=before[0],
            LEFT=before[1],
            HAS_BIAS=bias is not None,
            ACC=triton_dtype(x.dtype),
            BLOCK_C=tile.channels,
            TILE_H=tile.rows,
            TILE_W=tile.columns,
            num_warps=_WARPS,
        )
    return out


@or_plain
def shared_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, H, W, C), weight (G, k, k) or (B, G, k, k), bias (C,) or None -> (B, H, W, C)."""
    before = same_padding(weight.shape[-2])[0], same_padding(weight.shape[-1])[0]
    return _aggregate(x, weight, bias, before)


@or_plain
def shared_grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient for x: every kernel turned around and the padding swapped."""
    before = same_padding(weight.shape[-2])[1], same_padding(weight.shape[-1])[1]
    return _aggregate(grad, weight.flip(-1, -2), None, before)


@or_plain
def shared_grad_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient for weight. Parts are summed in a fixed order, so that it is the same in every run."""
    grad, x = grad.contiguous(), x.contiguous()
    batch, height, width, channels = x.shape
    groups, kernel_height, kernel_width = weight.shape[-3:]
    tile = _tile(x) if x.numel() else None
    parts = 1 if tile is None else tile.parts
    part = torch.zeros(
        batch, parts, kernel_height * kernel_width, channels, dtype=accumulation_dtype(x.dtype), device=x.device
    )
    if tile is not None:
        with on_device(x):
            _grad_weight_kernel[(batch * parts, tile.channel_blocks, kernel_width)](
                grad,
                x,
                part,
                height,
                width,
                channels,
                parts,
                KERNEL_H=kernel_height,
                KERNEL_W=kernel_width,
                TOP=same_padding(kernel_height)[0],
                LEFT=same_padding(kernel_width)[0],
                ACC=triton_dtype(x.dtype),
                BLOCK_C=tile.channels,
                TILE_H=tile.rows,
                TILE_W=tile.columns,
                num_warps=_WARPS,
            )
    total = part.sum(1) if weight.dim() == 4 else part.sum((0, 1))
    total = total.unflatten(-1, (groups, -1)).sum(-1).transpose(-1, -2)
    # The compiler is told of a contiguous result, and a view of the transposed sum is none.
    return total.reshape(weight.shape).to(weight.dtype).contiguous()
