"""The three properties by which the paper tells token mixers apart (section 2.3 and Table 1).

Every mixer is the sum ``y_i = sum_j w_ij * x_ij`` (equation 4). What differs is which ``w_ij`` exist (sparse
connectivity), which of them are equal (weight sharing), and whether they depend on the image (dynamic weight).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Properties:
    """What a token mixer declares about its weights; tests measure the same on its connection matrix."""

    positions: Literal["local window", "all", "only itself"]
    """Sparse connectivity between positions: those that reach one output."""
    channels_connected: bool
    """Whether an output channel sees other channels (False for every mixer of the paper)."""
    shared_positions: Literal["no", "yes", "between windows"]
    """Weight sharing across positions: "yes" for a convolution; "between windows" repeats one window's weights."""
    shared_channels: Literal["no", "groups", "all"]
    """Weight sharing across channels: "groups" for attention heads and channel groups."""
    dynamic: bool
    """Whether the weights are computed from the image."""
