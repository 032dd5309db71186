"""From a connection matrix to its properties."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..mixers.base import Positions, Properties, SharedChannels, SharedPositions
from .matrix import position_by_position

ZERO = 1e-14
"""Weights below this part of the largest are no connection."""
EQUAL = 1e-9
"""Weights that differ by less than this part of the largest are shared."""
RANK = 1e-13
"""Singular values below this part of the largest are rounding, where a cliff leads to them."""
CLIFF = 1e8
"""How far singular values fall in one step where the rank is low by construction. A full matrix may decay into the
rounding, too (a softmax of one feature, a triangular convolution), but in small steps."""

Period = tuple[int | None, int | None]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the connection matrices of a layer say."""

    properties: Properties
    window: tuple[int, int]
    """Height and width of the smallest window that holds what reaches an output, in positions."""
    partition: bool
    """Whether the map falls into windows that do not see each other (else the window slides)."""
    period: Period
    """Smallest translations down and across that leave the weights as they are; None where there is none."""
    channel_groups: int
    """Different sets of weights among the channels."""
    rank: int
    neurons: int
    matrix: Tensor
    """(N, C, N, C) on the first image, float64."""


def examine(first: Tensor, second: Tensor, size: tuple[int, int]) -> Measurement:
    """Derive the properties from a layer's (N, C, N, C) matrices on two images, over an H x W map.

    Raises:
        UserError: the map is too small to tell a window from all positions, or to hold a window that no border cuts.
    """
    largest = first.abs().max()
    connected = first.abs() > ZERO * largest
    reach = connected.any(3).any(1)
    window = _window(reach, size)
    positions = _positions(reach, window, size)
    partition = torch.equal(reach, (reach.float() @ reach.float()) > 0)
    # Windows that slide are cut by the border, and a layer may do there as it likes (padding, fewer to average over).
    margin = _margin(reach, size) if positions == "local window" and not partition else (0, 0)
    period = _period(first, size, margin)
    sharing, groups = _shared_channels(first, _channels_connected(connected))
    rank, neurons = _rank(position_by_position(first)), first.shape[0] * first.shape[1]
    properties = Properties(
        positions=positions,
        channels_connected=_channels_connected(connected),
        shared_positions=_shared_positions(period),
        shared_channels=sharing,
        dynamic=is_dynamic(first, second),
        low_rank=rank < neurons,
    )
    return Measurement(
        properties=properties,
        window=window,
        partition=partition,
        period=period,
        channel_groups=groups,
        rank=rank,
        neurons=neurons,
        matrix=first,
    )


def is_dynamic(first: Tensor, second: Tensor) -> bool:
    """Whether what a layer does with one image is not what it does with another."""
    return bool((first - second).abs().max() > EQUAL * first.abs().max())


def _rank(matrix: Tensor) -> int:
    """The rank by construction: at a cliff of the singular values, and never more than there are different columns.

    Pooled inputs have equal columns, to the bit, also where too few features to a head hide the cliff.
    """
    values = torch.linalg.svdvals(matrix)
    rank = int((values > RANK * values[0]).sum())
    if rank < len(values) and values[rank - 1] < CLIFF * values[rank]:
        rank = len(values)
    return min(rank, torch.unique(matrix, dim=1).shape[1])


def _channels_connected(connected: Tensor) -> bool:
    across = connected.any(2).any(0)  # (C, C)
    return bool((across & ~torch.eye(len(across), dtype=torch.bool)).any())


def _window(reach: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """The window as the shortest arc on the torus along each axis, so that windows that wrap around are not larger."""
    maps = reach.view(-1, *size)
    return max(_arc(row) for row in maps.any(2)), max(_arc(row) for row in maps.any(1))


def _arc(used: Tensor) -> int:
    """Length of the shortest cyclic interval that holds all true entries."""
    length = len(used)
    gap = longest = 0
    for index in range(2 * length):
        gap = 0 if used[index % length] else gap + 1
        longest = max(longest, gap)
    return length - min(longest, length)


def _positions(reach: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Positions:
    if torch.equal(reach, torch.eye(len(reach), dtype=torch.bool)):
        return "only itself"
    if reach.all():
        return "all"
    # Positions spread evenly over the map (grid attention) leave a gap, too, but never of half the map.
    small = all(2 * side <= length for side, length in zip(window, size, strict=True))
    smaller = all(side < length for side, length in zip(window, size, strict=True))
    if small or (smaller and _without_holes(reach, size)):
        return "local window"
    raise UserError(
        f"what reaches an output spans {window[0]}x{window[1]} of a map of {size[0]}x{size[1]} and is not all of it: "
        "that is no local window, or the map is too small to tell"
    )


def _without_holes(reach: Tensor, size: tuple[int, int]) -> bool:
    """Whether all that lies inside the window of an output reaches it."""
    maps = reach.view(-1, *size)
    return all(int(one.sum()) == _arc(one.any(1)) * _arc(one.any(0)) for one in maps)


def _margin(reach: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """How far from an output, down and across, there are inputs that reach it; distances are those on the torus."""
    margin = []
    for axis, length in enumerate(size):
        at = torch.arange(len(reach)) // (size[1] if axis == 0 else 1) % length
        distance = (at[:, None] - at).abs()
        margin.append(int(torch.minimum(distance, length - distance)[reach].max()))
        if length - 2 * margin[-1] < 2:
            raise UserError(
                f"a map of {size[0]}x{size[1]} is too small: the window reaches {margin[-1]} positions far, and no two "
                "outputs in a row see a whole one"
            )
    return margin[0], margin[1]


def _period(matrix: Tensor, size: tuple[int, int], margin: tuple[int, int]) -> Period:
    """The smallest step down and the smallest across whose translations leave all weights as they are.

    At most half of what lies off the margins, so that every output there is compared.
    """
    rows, columns = (length - 2 * off for length, off in zip(size, margin, strict=True))
    down = (step for step in range(1, rows // 2 + 1) if _unchanged(matrix, size, margin, (step, 0)))
    across = (step for step in range(1, columns // 2 + 1) if _unchanged(matrix, size, margin, (0, step)))
    return next(down, None), next(across, None)


def _unchanged(matrix: Tensor, size: tuple[int, int], margin: tuple[int, int], step: tuple[int, int]) -> bool:
    """Whether w(p + step, q + step) = w(p, q) wherever both pairs lie on the map and p and p + step off its margins."""
    weights = matrix.movedim(1, 2).unflatten(0, size).unflatten(2, size)  # (H, W, H, W, C, C)
    (height, width), (down, across) = size, step
    outputs = weights[margin[0] : height - margin[0], margin[1] : width - margin[1]]
    rows, columns = outputs.shape[:2]
    here = outputs[: rows - down, : columns - across, : height - down, : width - across]
    there = outputs[down:, across:, down:, across:]
    return bool((here - there).abs().max() <= EQUAL * matrix.abs().max())


def _shared_positions(period: Period) -> SharedPositions:
    if None in period:
        return "no"
    return "yes" if period == (1, 1) else "between windows"


def _shared_channels(matrix: Tensor, connected: bool) -> tuple[SharedChannels, int]:
    """Sharing between the N x N blocks of the channels, and how many different ones there are.

    Between connected channels the blocks without a weight are left out. Groups are as many channels each, in any order.
    """
    blocks, largest = matrix.permute(1, 3, 0, 2), matrix.abs().max()
    kinds = blocks.flatten(0, 1) if connected else blocks.diagonal().permute(2, 0, 1)
    if connected:
        kinds = kinds[kinds.abs().amax((1, 2)) > ZERO * largest]
    labels = _labels(kinds, EQUAL * largest)
    groups = max(labels) + 1
    if groups == 1:
        return "all", groups
    even = len({labels.count(label) for label in range(groups)}) == 1
    return ("groups" if even and groups < len(labels) else "no"), groups


def _labels(kinds: Tensor, tolerance: Tensor) -> list[int]:
    """Number each block by the first one that equals it."""
    seen: list[Tensor] = []
    labels = []
    for block in kinds:
        match = next((i for i, other in enumerate(seen) if (block - other).abs().max() <= tolerance), len(seen))
        if match == len(seen):
            seen.append(block)
        labels.append(match)
    return labels
