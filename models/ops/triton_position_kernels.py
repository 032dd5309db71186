"""Triton kernels for per-position weights, given or generated.

A program owns BLOCK_P consecutive positions of all images and BLOCK_G groups of WIDTH channels (padded to a power of
two). Where weights are generated, one small matrix product on the tensor cores makes those of one tap for the whole
tile, they are used, and they are gone: no weight is ever written to memory.
"""

import triton
import triton.language as tl


@triton.jit
def _place(pid, positions, height, width, BLOCK_P: tl.constexpr):
    """Positions of a program: the first, those from it on, row, column, and whether they exist.

    Only the first needs 64 bits, as a pointer's offset; the rest count from it in 32.
    """
    p = tl.arange(0, BLOCK_P)
    index = pid * BLOCK_P + p
    return (pid * BLOCK_P).to(tl.int64), p, (index // width) % height, index % width, index < positions


@triton.jit
def _moved(p, row, column, exists, by_row, by_column, height, width):
    """The positions moved inside their image, and whether they are still in it."""
    r, c = row + by_row, column + by_column
    inside = exists & (r >= 0) & (r < height) & (c >= 0) & (c < width)
    return p + by_row * width + by_column, inside


@triton.jit
def _product(a, b, ACC: tl.constexpr, UPCAST: tl.constexpr):
    """A matrix product that adds up in ACC. UPCAST is for the interpreter, whose NumPy has no bfloat16."""
    if UPCAST:
        a, b = a.to(ACC), b.to(ACC)
    return tl.dot(a, b, input_precision="ieee", out_dtype=ACC)


@triton.jit
def _map_tile(ptr, p, mask, g, lane, groups, group_width, ACC: tl.constexpr):
    """(BLOCK_P, BLOCK_G, WIDTH) of a map whose channels are groups * group_width."""
    at = p[:, None, None] * (groups * group_width) + (g[:, None] * group_width + lane[None, :])[None]
    real = ((g < groups)[:, None] & (lane < group_width)[None, :])[None]
    return tl.load(ptr + at, mask=mask[:, None, None] & real, other=0.0).to(ACC)


@triton.jit
def _hidden_tile(hidden_ptr, p, mask, d, depth):
    """(BLOCK_P, BLOCK_D) of the hidden map."""
    at = p[:, None] * depth + d[None, :]
    return tl.load(hidden_ptr + at, mask=mask[:, None] & (d < depth)[None, :], other=0.0)


@triton.jit
def _rows_of_tap(weight_ptr, tap, d, g, depth, groups):
    """(BLOCK_D, BLOCK_G) of the generator's last layer, stored (taps, D, G)."""
    at = (tap * depth + d)[:, None] * groups + g[None, :]
    return tl.load(weight_ptr + at, mask=(d < depth)[:, None] & (g < groups)[None, :], other=0.0)


@triton.jit
def _weights_of_tap(
    weight_ptr, bias_ptr, hidden_ptr, p, mask, tap, d, g, depth, groups, taps,
    GENERATED: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The weights of one tap at some positions, (BLOCK_P, BLOCK_G): made here, or loaded from (positions, G, taps)."""
    if GENERATED:
        hidden = _hidden_tile(hidden_ptr, p, mask, d, depth)
        rows = _rows_of_tap(weight_ptr, tap, d, g, depth, groups)
        weights = _product(hidden, rows, ACC, UPCAST)
        if HAS_BIAS:
            weights += tl.load(bias_ptr + tap * groups + g, mask=g < groups, other=0.0).to(ACC)[None, :]
    else:
        at = (p[:, None] * groups + g[None, :]) * taps + tap
        weights = tl.load(weight_ptr + at, mask=mask[:, None] & (g < groups)[None, :], other=0.0).to(ACC)
    return weights


@triton.jit
def aggregate_kernel(
    x_ptr, weight_ptr, bias_ptr, hidden_ptr, out_ptr, positions, height, width, groups, group_width, depth,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    BACKWARD: tl.constexpr, GENERATED: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The sum over the window; with BACKWARD its transpose, which takes the gradient of the output as x.

    Forward: y_i = sum_t w_i,t x_(i+t). Transposed: each position m gathers from those that used it, i = m - t, with
    their weights.
    """
    first, p, row, column, exists = _place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * (groups * group_width)
    out_ptr += first * (groups * group_width)
    hidden_ptr += first * depth
    if not GENERATED:
        weight_ptr += first * (groups * KERNEL_H * KERNEL_W)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    lane = tl.arange(0, WIDTH)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_P, BLOCK_G, WIDTH], dtype=ACC)
    for tap in range(KERNEL_H * KERNEL_W):
        by_row, by_column = tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT
        if BACKWARD:
            by_row, by_column = -by_row, -by_column
        source, inside = _moved(p, row, column, exists, by_row, by_column, height, width)
        owner, owned = p, exists
        if BACKWARD:
            owner, owned = source, inside
        weights = _weights_of_tap(
            weight_ptr, bias_ptr, hidden_ptr, owner, owned, tap, d, g, depth, groups, KERNEL_H * KERNEL_W,
            GENERATED, HAS_BIAS, ACC, UPCAST,
        )  # fmt: skip
        total += weights[:, :, None] * _map_tile(x_ptr, source, inside, g, lane, groups, group_width, ACC)
    at = p[:, None, None] * (groups * group_width) + (g[:, None] * group_width + lane[None, :])[None]
    real = ((g < groups)[:, None] & (lane < group_width)[None, :])[None]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=exists[:, None, None] & real)


@triton.jit
def _grad_of_tap(
    grad, x_ptr, p, row, column, exists, tap, g, lane, height, width, groups, group_width,
    KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient for one tap's weights, (BLOCK_P, BLOCK_G): grad times the moved map, summed over the group."""
    source, inside = _moved(p, row, column, exists, tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT, height, width)
    return tl.sum(grad * _map_tile(x_ptr, source, inside, g, lane, groups, group_width, ACC), axis=2)


@triton.jit
def grad_weight_kernel(
    grad_ptr, x_ptr, out_ptr, positions, height, width, groups, group_width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient for given weights, (positions, G, taps)."""
    first, p, row, column, exists = _place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * (groups * group_width)
    out_ptr += first * (groups * KERNEL_H * KERNEL_W)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    lane = tl.arange(0, WIDTH)
    grad_ptr += first * (groups * group_width)
    grad = _map_tile(grad_ptr, p, exists, g, lane, groups, group_width, ACC)
    for tap in range(KERNEL_H * KERNEL_W):
        value = _grad_of_tap(
            grad, x_ptr, p, row, column, exists, tap, g, lane, height, width, groups, group_width,
            KERNEL_W, TOP, LEFT, ACC,
        )  # fmt: skip
        at = (p[:, None] * groups + g[None, :]) * (KERNEL_H * KERNEL_W) + tap
        tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=exists[:, None] & (g < groups)[None, :])


@triton.jit
def grad_hidden_kernel(
    grad_ptr, x_ptr, weight_ptr, out_ptr, positions, height, width, groups, group_width, depth,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The gradient for `hidden`, (positions, D): each tap's weight gradient times the generator's rows."""
    first, p, row, column, exists = _place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * (groups * group_width)
    grad_ptr += first * (groups * group_width)
    out_ptr += first * depth
    lane = tl.arange(0, WIDTH)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_P, BLOCK_D], dtype=ACC)
    for first_group in range(0, groups, BLOCK_G):
        g = first_group + tl.arange(0, BLOCK_G)
        grad = _map_tile(grad_ptr, p, exists, g, lane, groups, group_width, ACC)
        for tap in range(KERNEL_H * KERNEL_W):
            value = _grad_of_tap(
                grad, x_ptr, p, row, column, exists, tap, g, lane, height, width, groups, group_width,
                KERNEL_W, TOP, LEFT, ACC,
            )  # fmt: skip
            rows = _rows_of_tap(weight_ptr, tap, d, g, depth, groups)
            total += _product(value.to(rows.dtype), tl.trans(rows), ACC, UPCAST)
    mask = exists[:, None] & (d < depth)[None, :]
    tl.store(out_ptr + p[:, None] * depth + d[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def grad_generator_kernel(
    grad_ptr, x_ptr, hidden_ptr, part_ptr, bias_part_ptr, positions, height, width, groups, group_width, depth, tiles,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The gradient for the generator's last layer and its bias at one tap, over `tiles` tiles of positions.

    Parts (part, taps, D, G) and (part, taps, G) are added up outside, in a fixed order.
    """
    tap, part = tl.program_id(0), tl.program_id(1)
    g = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    lane = tl.arange(0, WIDTH)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D, BLOCK_G], dtype=ACC)
    bias_total = tl.zeros([BLOCK_G], dtype=ACC)
    for tile in range(tiles):
        first, p, row, column, exists = _place(part * tiles + tile, positions, height, width, BLOCK_P)
        channels = first * (groups * group_width)
        grad = _map_tile(grad_ptr + channels, p, exists, g, lane, groups, group_width, ACC)
        value = _grad_of_tap(
            grad, x_ptr + channels, p, row, column, exists, tap, g, lane, height, width, groups, group_width,
            KERNEL_W, TOP, LEFT, ACC,
        )  # fmt: skip
        hidden = _hidden_tile(hidden_ptr + first * depth, p, exists, d, depth)
        total += _product(tl.trans(hidden), value.to(hidden.dtype), ACC, UPCAST)
        bias_total += tl.sum(value, axis=0)
    row_of_part = part.to(tl.int64) * (KERNEL_H * KERNEL_W) + tap
    mask = (d < depth)[:, None] & (g < groups)[None, :]
    tl.store(part_ptr + (row_of_part * depth + d)[:, None] * groups + g[None, :], total, mask=mask)
    tl.store(bias_part_ptr + row_of_part * groups + g, bias_total, mask=g < groups)
