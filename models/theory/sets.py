"""Set or vector (sections 2.3 and 2.4, Appendix B): whether an operator knows the places of features in its windows."""

import torch
from torch import Tensor, nn

from ..mixers._windows import from_windows, to_windows
from .measure import generic_copy
from .translation import EXACT


def sees_sets(layer: nn.Module, size: tuple[int, int], window: int, channels: int, *, seed: int = 0) -> bool:
    """Whether a layer with random parameters sees each window of a map as a set of features.

    It does where features that change places inside every window, all windows alike, change nothing but the places of
    the outputs. A cycle of all places and one exchange are tried: these two make up every permutation.

    Args:
        layer: maps (1, H, W, C) to the same shape; its windows are not shifted.
        size: (H, W), whole windows.
        window: side of the windows, 2 or more.
        channels: C.
        seed: of parameters and features.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = generic_copy(layer, generator).eval()
    x = torch.randn(1, *size, channels, dtype=torch.float64, generator=generator)
    places = torch.arange(window**2)
    exchange = torch.cat((places[:2].flip(0), places[2:]))
    with torch.no_grad():
        still = layer(x)
        for order in (places.roll(1), exchange):
            error = (layer(_moved(x, window, order)) - _moved(still, window, order)).abs().max()
            if error > EXACT * still.abs().max():
                return False
    return True


def _moved(x: Tensor, window: int, order: Tensor) -> Tensor:
    return from_windows(to_windows(x, window)[:, :, order], window, (x.shape[1], x.shape[2]))
