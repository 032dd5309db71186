"""Triton kernels for weights that are generated at each position.

A program owns BLOCK_P consecutive positions of all images and BLOCK_N *columns*. A column is SPAN neighbouring channels
with the same weights: SPAN is a power of two, and a group of channels is one column or several. So channels are read as
whole rows of BLOCK_N * SPAN, in vectors of 16 bytes, whatever the groups are. One small matrix product makes the
weights of one tap for the whole tile, they are used, and they are gone: no weight is ever written to memory. Sizes that
a model fixes are constants. The hidden map's DEPTH is worked on in PIECES of BLOCK_D, which keeps tiles small.
"""

import triton
import triton.language as tl

from .triton_common import moved, place, product


@triton.jit
def _map_tile(ptr, p, mask, c, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr):
    """(BLOCK_P, BLOCK_C) of a map with CHANNELS channels."""
    mask = mask[:, None]
    if CHANNELS % BLOCK_C:
        mask = mask & (c < CHANNELS)[None, :]
    return tl.load(ptr + p[:, None] * CHANNELS + c[None, :], mask=mask, other=0.0)


@triton.jit
def _columns(tile, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, ACC: tl.constexpr):
    """A tile of channels as (BLOCK_P, BLOCK_N, SPAN)."""
    return tl.reshape(tile, [BLOCK_P, BLOCK_N, SPAN]).to(ACC)


@triton.jit
def _hidden_tile(hidden_ptr, p, mask, piece, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK_P, BLOCK_D) of the hidden map."""
    return _map_tile(hidden_ptr, p, mask, piece * BLOCK_D + tl.arange(0, BLOCK_D), DEPTH, BLOCK_D)


@triton.jit
def _rows_of_tap(rows_ptr, tap, piece, n, DEPTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK_D, BLOCK_N) of the generator's last layer, stored (taps, DEPTH, COLUMNS)."""
    d = piece * BLOCK_D + tl.arange(0, BLOCK_D)
    at = (tap * DEPTH + d)[:, None] * COLUMNS + n[None, :]
    return tl.load(rows_ptr + at, mask=(d < DEPTH)[:, None] & (n < COLUMNS)[None, :], other=0.0)


@triton.jit
def aggregate_kernel(
    x_ptr, rows_ptr, bias_ptr, hidden_ptr, out_ptr, positions, height, width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    BACKWARD: tl.constexpr, HAS_BIAS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The sum over the window; with BACKWARD its transpose, which takes the gradient of the output as x.

    Forward: y_i = sum_t w_i,t x_(i+t). Transposed: each position m gathers from those that used it, i = m - t, with
    their weights.
    """
    CHANNELS: tl.constexpr = COLUMNS * SPAN
    BLOCK_C: tl.constexpr = BLOCK_N * SPAN
    PIECES: tl.constexpr = (DEPTH + BLOCK_D - 1) // BLOCK_D
    first, p, row, column, exists = place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * CHANNELS
    out_ptr += first * CHANNELS
    hidden_ptr += first * DEPTH
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = ()
    if not BACKWARD:
        for piece in tl.static_range(PIECES):
            own = own + (_hidden_tile(hidden_ptr, p, exists, piece, DEPTH, BLOCK_D),)  # type: ignore[assignment]  # noqa: RUF005
    total = tl.zeros([BLOCK_P, BLOCK_N, SPAN], dtype=ACC)
    for tap in range(KERNEL_H * KERNEL_W):
        by_row, by_column = tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT
        if BACKWARD:
            by_row, by_column = -by_row, -by_column
        source, inside = moved(p, row, column, exists, by_row, by_column, height, width)
        weights = tl.zeros([BLOCK_P, BLOCK_N], dtype=ACC)
        for piece in tl.static_range(PIECES):
            hidden = _hidden_tile(hidden_ptr, source, inside, piece, DEPTH, BLOCK_D) if BACKWARD else own[piece]
            rows = _rows_of_tap(rows_ptr, tap, piece, n, DEPTH, COLUMNS, BLOCK_D)
            weights = product(hidden, rows, weights, ACC, UPCAST)
        if HAS_BIAS:
            weights += tl.load(bias_ptr + tap * COLUMNS + n, mask=n < COLUMNS, other=0.0).to(ACC)[None, :]
        tile = _map_tile(x_ptr, source, inside, c, CHANNELS, BLOCK_C)
        total += weights[:, :, None] * _columns(tile, BLOCK_P, BLOCK_N, SPAN, ACC)
    out = tl.reshape(total.to(out_ptr.dtype.element_ty), [BLOCK_P, BLOCK_C])
    tl.store(out_ptr + p[:, None] * CHANNELS + c[None, :], out, mask=exists[:, None] & (c < CHANNELS)[None, :])


@triton.jit
def _grad_of_tap(
    grad, x_ptr, p, row, column, exists, tap, c, height, width,
    KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient for one tap's weights, (BLOCK_P, BLOCK_N): grad times the moved map, summed over each column."""
    source, inside = moved(p, row, column, exists, tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT, height, width)
    tile = _map_tile(x_ptr, source, inside, c, CHANNELS, BLOCK_N * SPAN)
    return tl.sum(grad * _columns(tile, BLOCK_P, BLOCK_N, SPAN, ACC), axis=2)


@triton.jit
def grad_hidden_kernel(
    grad_ptr, x_ptr, rows_ptr, out_ptr, positions, height, width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    COLUMNS: tl.constexpr, SPAN: tl.constexpr, DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The gradient for `hidden`, (positions, DEPTH): each tap's weight gradient times the generator's rows."""
    CHANNELS: tl.constexpr = COLUMNS * SPAN
    BLOCK_C: tl.constexpr = BLOCK_N * SPAN
    PIECES: tl.constexpr = (DEPTH + BLOCK_D - 1) // BLOCK_D
    first, p, row, column, exists = place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * CHANNELS
    grad_ptr += first * CHANNELS
    out_ptr += first * DEPTH
    totals = (tl.zeros([BLOCK_P, BLOCK_D], dtype=ACC),) * PIECES
    for block in range((COLUMNS + BLOCK_N - 1) // BLOCK_N):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)
        grad = _columns(_map_tile(grad_ptr, p, exists, c, CHANNELS, BLOCK_C), BLOCK_P, BLOCK_N, SPAN, ACC)
        for tap in range(KERNEL_H * KERNEL_W):
            value = _grad_of_tap(
                grad, x_ptr, p, row, column, exists, tap, c, height, width,
                KERNEL_W, TOP, LEFT, CHANNELS, BLOCK_P, BLOCK_N, SPAN, ACC,
            )  # fmt: skip
            updated = ()
            for piece in tl.static_range(PIECES):
                rows = _rows_of_tap(rows_ptr, tap, piece, n, DEPTH, COLUMNS, BLOCK_D)
                more = product(value.to(rows.dtype), tl.trans(rows), totals[piece], ACC, UPCAST)
                updated = updated + (more,)  # type: ignore[assignment]  # noqa: RUF005
            totals = updated
    for piece in tl.static_range(PIECES):
        d = piece * BLOCK_D + tl.arange(0, BLOCK_D)
        mask = exists[:, None] & (d < DEPTH)[None, :]
        tl.store(out_ptr + p[:, None] * DEPTH + d[None, :], totals[piece].to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def grad_generator_kernel(
    grad_ptr, x_ptr, hidden_ptr, part_ptr, bias_part_ptr, positions, height, width, tiles,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    COLUMNS: tl.constexpr, SPAN: tl.constexpr, DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The gradient for the generator's last layer and its bias at one tap, over `tiles` tiles of positions.

    Parts (part, taps, DEPTH, COLUMNS) and (part, taps, COLUMNS) are added up outside, in a fixed order.
    """
    CHANNELS: tl.constexpr = COLUMNS * SPAN
    BLOCK_C: tl.constexpr = BLOCK_N * SPAN
    PIECES: tl.constexpr = (DEPTH + BLOCK_D - 1) // BLOCK_D
    tap, part = tl.program_id(0), tl.program_id(1)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    totals = (tl.zeros([BLOCK_D, BLOCK_N], dtype=ACC),) * PIECES
    bias_total = tl.zeros([BLOCK_P, BLOCK_N], dtype=ACC)  # summed over positions at the end: each turn would cost dear
    for tile in range(tiles):
        first, p, row, column, exists = place(part * tiles + tile, positions, height, width, BLOCK_P)
        channels = first * CHANNELS
        grad = _columns(_map_tile(grad_ptr + channels, p, exists, c, CHANNELS, BLOCK_C), BLOCK_P, BLOCK_N, SPAN, ACC)
        value = _grad_of_tap(
            grad, x_ptr + channels, p, row, column, exists, tap, c, height, width,
            KERNEL_W, TOP, LEFT, CHANNELS, BLOCK_P, BLOCK_N, SPAN, ACC,
        )  # fmt: skip
        bias_total += value
        value = value.to(hidden_ptr.dtype.element_ty)
        updated = ()
        for piece in tl.static_range(PIECES):
            hidden = _hidden_tile(hidden_ptr + first * DEPTH, p, exists, piece, DEPTH, BLOCK_D)
            more = product(tl.trans(hidden), value, totals[piece], ACC, UPCAST)
            updated = updated + (more,)  # type: ignore[assignment]  # noqa: RUF005
        totals = updated
    line = part.to(tl.int64) * (KERNEL_H * KERNEL_W) + tap
    tl.store(bias_part_ptr + line * COLUMNS + n, tl.sum(bias_total, axis=0), mask=n < COLUMNS)
    for piece in tl.static_range(PIECES):
        d = piece * BLOCK_D + tl.arange(0, BLOCK_D)
        mask = (d < DEPTH)[:, None] & (n < COLUMNS)[None, :]
        tl.store(part_ptr + (line * DEPTH + d)[:, None] * COLUMNS + n[None, :], totals[piece], mask=mask)
