"""The three properties by which the paper tells token mixers apart (section 2.3 and Table 1).

Every mixer is the sum ``y_i = sum_j w_ij * x_ij`` (equation 4). What differs is which ``w_ij`` exist (sparse
connectivity), which of them are equal (weight sharing), and whether they depend on the image (dynamic weight).
"""

from dataclasses import dataclass
from typing import Literal

Positions = Literal["local window", "all", "only itself"]
SharedPositions = Literal["no", "yes", "between windows"]
SharedChannels = Literal["no", "groups", "all"]


@dataclass(frozen=True, kw_only=True)
class Properties:
    """What a layer declares about its weights; tests measure the same on its connection matrix."""

    positions: Positions
    """Sparse connectivity between positions: those that reach one output."""
    channels_connected: bool
    """Whether an output channel sees other channels (False for every mixer of the paper)."""
    shared_positions: SharedPositions
    """Weight sharing across positions: "yes" for a convolution; "between windows" repeats one window's weights."""
    shared_channels: SharedChannels
    """Weight sharing across channels: "groups" for attention heads and channel groups."""
    dynamic: bool
    """Whether the weights are computed from the image."""
    low_rank: bool = False
    """Whether the connection matrix has less than full rank by construction (Appendix A; no mixer of the zoo)."""


def channel_sharing(groups: int, dim: int) -> SharedChannels:
    """How ``dim`` channels share weights that exist once for each of ``groups`` groups."""
    if groups == dim:
        return "no"
    return "all" if groups == 1 else "groups"
