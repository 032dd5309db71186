"""From a layer to its connection matrix, and from the matrix to its properties."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..mixers.base import Mixer, Positions, Properties, SharedChannels, SharedPositions

ROWS_AT_ONCE = 128


def connection_matrix(apply: Callable[[Tensor], Tensor], shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """The weights W of ``y = W x`` (equation 7) as (N, C, N, C): position and channel of the output, then of the input.

    Each row is the gradient of one output. A batch holds as many copies of the input as rows are computed, so one
    backward pass gives them all; images of a batch must not see each other.

    Args:
        apply: a linear (or affine) map of (B, H, W, C) to the same shape.
        shape: (H, W, C).
        dtype: of the computation; float64 keeps equal weights equal.
    """
    height, width, channels = shape
    neurons = height * width * channels
    units = torch.eye(neurons, dtype=dtype).view(neurons, *shape)
    rows = []
    for part in units.split(ROWS_AT_ONCE):
        x = torch.zeros(len(part), *shape, dtype=dtype, requires_grad=True)
        rows.append(torch.autograd.grad(apply(x), x, part)[0])
    positions = height * width
    return torch.cat(rows).view(positions, channels, positions, channels)


def channel_by_channel(matrix: Tensor) -> Tensor:
    """(N, C, N, C) as the CN x CN matrix of equations 9, 10, 13 and 14: all positions of a channel together."""
    positions, channels = matrix.shape[:2]
    return matrix.permute(1, 0, 3, 2).reshape(channels * positions, channels * positions)


def position_by_position(matrix: Tensor) -> Tensor:
    """(N, C, N, C) as the NC x NC matrix of equation 11: all channels of a position together."""
    positions, channels = matrix.shape[:2]
    return matrix.reshape(positions * channels, positions * channels)


def value_map(layer: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The sum of ``layer`` with the weights that it has for the image features ``x`` (1, H, W, C).

    A function of values (B, H, W, C) to the same shape. Of a mixer it is the sum over its ``local_weights``, once
    they are seen to define what the mixer computes; of another layer its own ``value_map``, or the layer itself, whose
    bias, if it has one, stays in the map. The layer is run in evaluation mode.

    Raises:
        UserError: a mixer does not compute what it defines, or a map is not affine.
    """
    if isinstance(layer, Mixer):
        return _mixer_map(layer, x)
    own = getattr(layer, "value_map", None)
    with torch.no_grad(), _evaluating(layer):
        apply: Callable[[Tensor], Tensor] = layer if own is None else own(x)
    _check_affine(layer, apply, x)
    return apply


def _mixer_map(mixer: Mixer, x: Tensor) -> Callable[[Tensor], Tensor]:
    height, width = x.shape[1:3]
    with torch.no_grad(), _evaluating(mixer):
        framed = mixer.frame(x)
        weights = mixer.local_weights(framed)
        expected, found = mixer.definition(x), mixer(x)
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise UserError(f"{type(mixer).__name__}: what it computes is not the sum of its values with its local_weights")
    padding = (0, 0, 0, framed.shape[2] - width, 0, framed.shape[1] - height)

    def apply(values: Tensor) -> Tensor:
        return weights.expand(len(values)).aggregate(F.pad(values, padding))[:, :height, :width]

    return apply


def _check_affine(layer: nn.Module, apply: Callable[[Tensor], Tensor], x: Tensor) -> None:
    first, second = (torch.randn(x.shape, dtype=torch.float64).to(x.dtype) for _ in range(2))
    with torch.no_grad():
        origin, one, two, both = (apply(v) for v in (torch.zeros_like(first), first, second, first + second))
    error = (both + origin - one - two).abs().max()
    if error > 1e-4 * (one.abs().max() + two.abs().max()):
        raise UserError(f"{type(layer).__name__}: its map on the values is not linear; its weights are not held")


@contextmanager
def _evaluating(layer: nn.Module) -> Iterator[None]:
    training = layer.training
    layer.eval()
    try:
        yield
    finally:
        layer.train(training)


ZERO = 1e-14
"""Weights below this part of the largest are no connection."""
EQUAL = 1e-9
"""Weights that differ by less than this part of the largest are shared."""
DRAWS = 16
"""Random sets of parameters on which a layer must keep its weights between images to be called static."""
RANK = 1e-13
"""Singular values below this part of the largest do not count; a softmax of few features comes near it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the connection matrices of a layer say."""

    properties: Properties
    window: tuple[int, int]
    """Height and width of the smallest window that holds what reaches an output, in positions."""
    partition: bool
    """Whether the map falls into windows that do not see each other (else the window slides)."""
    period: int | None
    """Smallest translation, in positions, that leaves the weights as they are; None where there is none."""
    channel_groups: int
    """Different sets of weights among the channels."""
    rank: int
    neurons: int
    matrix: Tensor
    """(N, C, N, C) on the first image, float64."""


def measure(layer: nn.Module, size: tuple[int, int], channels: int, *, seed: int = 0) -> Measurement:
    """Measure a mixer or layer at a generic point: all parameters random, on two random images.

    Random parameters keep a coincidence of the initialisation (an identity, a zero) from looking like a property. Where
    the weights did not change with the image other parameters are tried, for a ReLU may have hidden the image. The
    layer itself is not changed.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        copied = generic_copy(layer, generator)
        images = torch.randn(3, 1, *size, channels, dtype=torch.float64, generator=generator)
        maps = [value_map(copied, x) for x in images[:2]]
        if _dynamic(*(apply(images[2]).detach() for apply in maps)):
            break
    first, second = (connection_matrix(apply, (*size, channels), torch.float64) for apply in maps)
    return examine(first, second, size)


def generic_copy(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """A float64 copy with random parameters and running statistics, of a scale that does not saturate a softmax."""
    layer = copy.deepcopy(layer).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in layer.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
    return layer


def examine(first: Tensor, second: Tensor, size: tuple[int, int]) -> Measurement:
    """Derive the properties from a layer's (N, C, N, C) matrices on two images, over an H x W map."""
    largest = first.abs().max()
    connected = first.abs() > ZERO * largest
    reach = connected.any(3).any(1)
    window = _window(reach, size)
    period = _period(first, size)
    sharing, groups = _shared_channels(first, _channels_connected(connected))
    neurons = first.shape[0] * first.shape[1]
    rank = int(torch.linalg.matrix_rank(position_by_position(first), rtol=RANK))
    properties = Properties(
        positions=_positions(reach, window, size),
        channels_connected=_channels_connected(connected),
        shared_positions=_shared_positions(period),
        shared_channels=sharing,
        dynamic=_dynamic(first, second),
        low_rank=rank < neurons,
    )
    return Measurement(
        properties=properties,
        window=window,
        partition=torch.equal(reach, (reach.float() @ reach.float()) > 0),
        period=period,
        channel_groups=groups,
        rank=rank,
        neurons=neurons,
        matrix=first,
    )


def _dynamic(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() > EQUAL * first.abs().max())


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
    return "local window" if window[0] < size[0] and window[1] < size[1] else "all"


def _period(matrix: Tensor, size: tuple[int, int]) -> int | None:
    """The smallest step whose translations down and across both leave all weights as they are."""
    for step in range(1, min(size) // 2 + 1):
        if _unchanged(matrix, size, (step, 0)) and _unchanged(matrix, size, (0, step)):
            return step
    return None


def _unchanged(matrix: Tensor, size: tuple[int, int], step: tuple[int, int]) -> bool:
    """Whether w(p + step, q + step) = w(p, q) wherever both pairs lie on the map; borders are left out."""
    weights = matrix.movedim(1, 2).unflatten(0, size).unflatten(2, size)  # (H, W, H, W, C, C)
    down, across = step
    height, width = size
    here = weights[: height - down, : width - across, : height - down, : width - across]
    there = weights[down:, across:, down:, across:]
    return bool((here - there).abs().max() <= EQUAL * matrix.abs().max())


def _shared_positions(period: int | None) -> SharedPositions:
    if period is None:
        return "no"
    return "yes" if period == 1 else "between windows"


def _shared_channels(matrix: Tensor, connected: bool) -> tuple[SharedChannels, int]:
    """Sharing between the N x N blocks of the channels, and how many different ones there are."""
    blocks = matrix.permute(1, 3, 0, 2)
    kinds = blocks.flatten(0, 1) if connected else blocks.diagonal().permute(2, 0, 1)
    labels = _labels(kinds, EQUAL * matrix.abs().max())
    groups = max(labels) + 1
    if groups == 1:
        return "all", groups
    even = len(labels) % groups == 0 and labels == [i // (len(labels) // groups) for i in range(len(labels))]
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
