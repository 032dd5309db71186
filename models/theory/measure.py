"""From a layer to its connection matrix, and what that says."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..mixers.base import Mixer
from .examine import Measurement, examine, is_dynamic
from .matrix import connection_matrix

DRAWS = 16
"""Random sets of parameters on which a layer must keep its weights between images to be called static."""


def value_map(layer: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The sum of ``layer`` with the weights that it has for the image features ``x`` (1, H, W, C).

    A function of values (B, H, W, C) to the same shape. Of a mixer it is the sum over its ``local_weights``, once
    they are seen to define what the mixer computes; of another layer its own ``value_map``, or the layer itself, whose
    bias, if it has one, stays in the map. The layer is run in evaluation mode.

    Raises:
        UserError: a mixer does not compute what it defines, joins positions elsewhere than in the sum, or a map is not
            affine.
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
    name, near = type(mixer).__name__, _tolerance(x)
    with torch.no_grad(), _evaluating(mixer):
        framed = mixer.frame(x)
        weights = mixer.local_weights(framed)
        expected, found = mixer.definition(x), mixer(x)
        if (found - expected).abs().max() > near * expected.abs().max():
            raise UserError(f"{name}: what it computes is not the sum of its values with its local_weights")
        for part, before in (("values", framed), ("output", weights.aggregate(mixer.values(framed)))):
            if not _is_position_by_position(getattr(mixer, part), before):
                raise UserError(f"{name}: its {part}() at a position depends on others, beside the sum")
    padding = (0, 0, 0, framed.shape[2] - width, 0, framed.shape[1] - height)

    def apply(values: Tensor) -> Tensor:
        return weights.expand(len(values)).aggregate(F.pad(values, padding))[:, :height, :width]

    return apply


def _tolerance(x: Tensor) -> float:
    """Below this part of the largest, differences of results are rounding."""
    return 1e-9 if x.dtype == torch.float64 else 1e-4


def _is_position_by_position(part: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether a change of ``x`` (1, H, W, C) at any one position changes ``part(x)`` nowhere else."""
    height, width = x.shape[1:3]
    here = torch.eye(height * width, dtype=torch.bool, device=x.device).view(-1, height, width, 1)
    still, moved = part(x), part(torch.where(here, x + x.abs().max(), x))
    change = (moved - still).abs().masked_fill(here, 0)
    return bool(change.max() <= _tolerance(x) * still.abs().max())


def _check_affine(layer: nn.Module, apply: Callable[[Tensor], Tensor], x: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype) for _ in range(2))
    with torch.no_grad():
        origin, one, two, both = (apply(v) for v in (torch.zeros_like(first), first, second, first + second))
    error = (both + origin - one - two).abs().max()
    if error > _tolerance(x) * (one.abs().max() + two.abs().max()):
        raise UserError(f"{type(layer).__name__}: its map on the values is not linear; its weights are not held")


@contextmanager
def _evaluating(layer: nn.Module) -> Iterator[None]:
    training = layer.training
    layer.eval()
    try:
        yield
    finally:
        layer.train(training)


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
        if is_dynamic(*(apply(images[2]).detach() for apply in maps)):
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
