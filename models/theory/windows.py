"""The weights behind one output of a mixer, as a window."""

from dataclasses import dataclass

from torch import Tensor

from ..mixers._windows import WindowMixer, window_shift
from ..mixers.base import Mixer
from ..ops.reference import same_padding


@dataclass(frozen=True)
class Window:
    """Weights (k, k) of what an output is made from, and the place of the output in it."""

    weights: Tensor
    centre: tuple[int, int]


def window_of(mixer: Mixer, x: Tensor, position: tuple[int, int], channel: int) -> Window:
    """The weights of ``mixer`` for one output on features ``x`` (1, H, W, C)."""
    x = mixer.frame(x)
    if isinstance(mixer, WindowMixer):
        return _block_window(mixer, x, position, channel)
    local = mixer.local_weights(x)
    weight = local.weight.detach()
    group = channel * weight.shape[-3] // x.shape[-1]
    if weight.dim() == 6:
        row, column = ((at - by) % n for at, by, n in zip(position, local.shift, weight.shape[1:3], strict=True))
        weight = weight[0, row, column]  # of the rolled map
    elif weight.dim() == 4:
        weight = weight[0]
    before = same_padding(weight.shape[-1])[0]
    return Window(weight[group], (before, before))


def _block_window(mixer: WindowMixer, x: Tensor, position: tuple[int, int], channel: int) -> Window:
    size, side = (x.shape[1], x.shape[2]), mixer.window_size
    weights = mixer.window_weights(x)[0].detach()
    shift = window_shift(size, side, mixer.shift)
    rows, columns = (-(-length // side) for length in size)
    row, column = (position[0] - shift[0]) % (rows * side), (position[1] - shift[1]) % (columns * side)
    inside = (row % side, column % side)
    head = channel * mixer.num_heads // x.shape[-1]
    own = weights[row // side * columns + column // side, head, inside[0] * side + inside[1]]
    return Window(own.view(side, side), inside)
