"""The weights that make one output: those of a position, channel and image, as a window."""

from dataclasses import dataclass

from torch import Tensor

from models.mixers._windows import window_shift
from models.mixers.base import Mixer
from models.mixers.static_window import StaticWindow
from models.mixers.window_attention import WindowAttention
from models.ops.reference import same_padding
from models.theory.weights import attention_weights, local_weights


@dataclass(frozen=True)
class Window:
    """Weights (k, k) of what an output is made from, and the place of the output in it."""

    weights: Tensor
    centre: tuple[int, int]


def window_of(mixer: Mixer, x: Tensor, position: tuple[int, int], channel: int) -> Window:
    """The weights of ``mixer`` for one output on features ``x`` (1, H, W, C)."""
    if isinstance(mixer, WindowAttention | StaticWindow):
        return _block_window(mixer, x, position, channel)
    weight = local_weights(mixer, x).weight
    group = channel * weight.shape[-3] // x.shape[-1]
    if weight.dim() == 6:
        weight = weight[0, position[0], position[1]]
    elif weight.dim() == 4:
        weight = weight[0]
    before = same_padding(weight.shape[-1])[0]
    return Window(weight[group], (before, before))


def _block_window(mixer: WindowAttention | StaticWindow, x: Tensor, position: tuple[int, int], channel: int) -> Window:
    size, side = (x.shape[1], x.shape[2]), mixer.window_size
    if isinstance(mixer, WindowAttention):
        weights = attention_weights(mixer, x)[0]
    else:
        weights = mixer.weight.detach().expand(mixer.grid[0] * mixer.grid[1], -1, -1, -1)
    shift = window_shift(size, side, mixer.shift)
    rows, columns = (-(-length // side) for length in size)
    row, column = (position[0] - shift[0]) % (rows * side), (position[1] - shift[1]) % (columns * side)
    inside = (row % side, column % side)
    head = channel * mixer.num_heads // x.shape[-1]
    own = weights[row // side * columns + column // side, head, inside[0] * side + inside[1]]
    return Window(own.view(side, side), inside)
