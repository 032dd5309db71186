"""Triton kernels for given per-position weights.

A program owns BLOCK_P consecutive positions of all images and BLOCK_G groups of GROUP_WIDTH channels, padded to LANES.
"""

import triton
import triton.language as tl

from .triton_common import moved, place


@triton.jit
def _map_tile(ptr, p, mask, g, lane, GROUPS: tl.constexpr, GROUP_WIDTH: tl.constexpr, ACC: tl.constexpr):
    """(BLOCK_P, BLOCK_G, LANES) of a map whose channels are GROUPS * GROUP_WIDTH."""
    at = p[:, None, None] * (GROUPS * GROUP_WIDTH) + (g[:, None] * GROUP_WIDTH + lane[None, :])[None]
    real = ((g < GROUPS)[:, None] & (lane < GROUP_WIDTH)[None, :])[None]
    return tl.load(ptr + at, mask=mask[:, None, None] & real, other=0.0).to(ACC)


@triton.jit
def aggregate_kernel(
    x_ptr, weight_ptr, out_ptr, positions, height, width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, BACKWARD: tl.constexpr,
    GROUPS: tl.constexpr, GROUP_WIDTH: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The sum over the window; with BACKWARD its transpose, which takes the gradient of the output as x.

    Forward: y_i = sum_t w_i,t x_(i+t). Transposed: each position m gathers from those that used it, i = m - t, with
    their weights. Weights are stored (positions, G, taps).
    """
    first, p, row, column, exists = place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * (GROUPS * GROUP_WIDTH)
    out_ptr += first * (GROUPS * GROUP_WIDTH)
    weight_ptr += first * (GROUPS * KERNEL_H * KERNEL_W)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    lane = tl.arange(0, LANES)
    total = tl.zeros([BLOCK_P, BLOCK_G, LANES], dtype=ACC)
    for tap in range(KERNEL_H * KERNEL_W):
        by_row, by_column = tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT
        if BACKWARD:
            by_row, by_column = -by_row, -by_column
        source, inside = moved(p, row, column, exists, by_row, by_column, height, width)
        owner, owned = p, exists
        if BACKWARD:
            owner, owned = source, inside
        at = (owner[:, None] * GROUPS + g[None, :]) * (KERNEL_H * KERNEL_W) + tap
        weights = tl.load(weight_ptr + at, mask=owned[:, None] & (g < GROUPS)[None, :], other=0.0).to(ACC)
        total += weights[:, :, None] * _map_tile(x_ptr, source, inside, g, lane, GROUPS, GROUP_WIDTH, ACC)
    at = p[:, None, None] * (GROUPS * GROUP_WIDTH) + (g[:, None] * GROUP_WIDTH + lane[None, :])[None]
    real = ((g < GROUPS)[:, None] & (lane < GROUP_WIDTH)[None, :])[None]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=exists[:, None, None] & real)


@triton.jit
def grad_weight_kernel(
    grad_ptr, x_ptr, out_ptr, positions, height, width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    GROUPS: tl.constexpr, GROUP_WIDTH: tl.constexpr, ACC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The gradient for given weights, (positions, G, taps): grad times the moved map, summed over the group."""
    first, p, row, column, exists = place(tl.program_id(0), positions, height, width, BLOCK_P)
    x_ptr += first * (GROUPS * GROUP_WIDTH)
    grad_ptr += first * (GROUPS * GROUP_WIDTH)
    out_ptr += first * (GROUPS * KERNEL_H * KERNEL_W)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    lane = tl.arange(0, LANES)
    grad = _map_tile(grad_ptr, p, exists, g, lane, GROUPS, GROUP_WIDTH, ACC)
    for tap in range(KERNEL_H * KERNEL_W):
        source, inside = moved(p, row, column, exists, tap // KERNEL_W - TOP, tap % KERNEL_W - LEFT, height, width)
        value = tl.sum(grad * _map_tile(x_ptr, source, inside, g, lane, GROUPS, GROUP_WIDTH, ACC), axis=2)
        at = (p[:, None] * GROUPS + g[None, :]) * (KERNEL_H * KERNEL_W) + tap
        tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=exists[:, None] & (g < GROUPS)[None, :])
