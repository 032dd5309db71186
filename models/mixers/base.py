"""What a token mixer is: the one variable part of the network, told apart by three properties (section 2.3, Table 1).

Every mixer is the sum ``y_i = sum_j w_ij * x_ij`` (equation 4). What differs is which ``w_ij`` exist (sparse
connectivity), which of them are equal (weight sharing), and whether they depend on the image (dynamic weight).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

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


@dataclass(frozen=True, kw_only=True)
class BlockInfo:
    """The place in the pyramid where a mixer stands; everything it may depend on besides its own options."""

    dim: int
    """Channels C of the map."""
    resolution: tuple[int, int] = (56, 56)
    """Height and width of the map at the nominal input size."""
    num_heads: int = 1
    """Attention heads; also the number of channel groups where kernels are shared as in Swin (Table 10)."""
    stage: int = 0
    index: int = 0
    """Position of the block in its stage: Swin shifts its windows in every odd one."""
    norm: str | None = None
    """Norm inside the mixer ("ln", "bn", "ccbn"); None takes the mixer's own default."""


class Mixer(nn.Module):
    """Maps (B, H, W, C) to (B, H, W, C) for any H and W unless its class says otherwise.

    A subclass is registered with :func:`models.mixers.register_mixer`, takes ``(info, *, window_size, ...)`` with typed
    keyword options, and declares what follows.
    """

    properties: Properties
    default_norm: ClassVar[str] = "ln"
    """Norm of the block (Swin: LN; depth-wise models: BN)."""
    prenorm: ClassVar[bool] = True
    """Whether the block normalises before the mixer (Swin does, the depth-wise models do not)."""

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        """Fit a checkpoint's tensor of another window or input size to this mixer's parameter ``name``.

        Returns None where the two shapes have no such relation; the loader then reports a mismatch.
        """
        return None
