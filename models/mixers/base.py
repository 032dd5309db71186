"""What a token mixer is: the one variable part of the network."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.mixers.properties import Properties


@dataclass(frozen=True, kw_only=True)
class Site:
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

    A subclass is registered with :func:`models.mixers.register_mixer`, takes ``(site, *, window_size, ...)`` with typed
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
