"""What a token mixer is: the one variable part of the network, told apart by three properties (section 2.3, Table 1).

Every mixer is the sum ``y_i = sum_j w_ij * x_ij`` (equation 4). What differs is which ``w_ij`` exist (sparse
connectivity), which of them are equal (weight sharing), and whether they depend on the image (dynamic weight).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..ops import local_aggregate

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


@dataclass(frozen=True)
class LocalWeights:
    """Weights ``w_ij``, in any of the forms that ``local_aggregate`` takes."""

    weight: Tensor
    """(G, k, k), (B, G, k, k) or (B, H, W, G, k, k); the last on the rolled map where there is a shift."""
    shift: tuple[int, int] = (0, 0)
    """How far the map is rolled before the sum and back after it."""

    def aggregate(self, values: Tensor) -> Tensor:
        """``y_i = sum_j w_ij * x_ij`` (equation 4) for values (B, H, W, C)."""
        if not any(self.shift):
            return local_aggregate(values, self.weight)
        rolled = torch.roll(values, (-self.shift[0], -self.shift[1]), (1, 2))
        return torch.roll(local_aggregate(rolled, self.weight), self.shift, (1, 2))

    def expand(self, batch: int) -> "LocalWeights":
        """The weights of one image for a batch of as many."""
        if self.weight.dim() == 3:
            return self
        return LocalWeights(self.weight.expand(batch, *self.weight.shape[1:]), self.shift)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Options under which a mixer is measured, tested and listed."""

    label: str
    """How tables and figures call it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the constructor; ``...`` stands for the number of heads."""
    figure: str = ""
    """Its name in Figure 4, empty where the figure leaves it out."""

    def options_for(self, heads: int) -> dict[str, Any]:
        """The options for a block of ``heads`` heads."""
        return {key: heads if value is ... else value for key, value in self.options.items()}


class Mixer(nn.Module):
    """``y_i = sum_j w_ij * x_ij`` on maps (B, H, W, C) of any H and W unless its class says otherwise.

    A subclass is the one class of a file ``models/mixers/NAME.py``, registered there by ``@register_mixer("NAME")``;
    its constructor takes ``(info, *, window_size, ...)`` with typed keyword options. :meth:`values`,
    :meth:`local_weights` and :meth:`output` define it. All else has a default: what follows here is what the cost
    counters, the theory, conversion, inference, dense prediction and the tests ask of a mixer.
    """

    properties: Properties
    """Declared; a test measures the same on the connection matrix."""
    variants: ClassVar[Mapping[str, Variant]] = {}
    """The option sets that are measured and tested, by name; by default the mixer without options."""
    family: ClassVar[str | None] = None
    """Makes the named models FAMILY_nano, FAMILY_tiny and FAMILY_base."""
    default_norm: ClassVar[str] = "ln"
    """Norm of the block (Swin: LN; depth-wise models: BN)."""
    prenorm: ClassVar[bool] = True
    """Whether the block normalises before the mixer (Swin does, the depth-wise models do not)."""
    dense_norm: ClassVar[str] = "bn"
    """Norm of a dense backbone's outputs."""
    dense_window_pad: ClassVar[bool] = False
    """Whether a dense backbone is built with ``window_pad=True``, an option that the constructor then has."""
    exports_any_size: ClassVar[bool] = True
    """Whether a graph that was recorded at one size of the map is right at every other."""
    no_weight_decay: ClassVar[Sequence[str]] = ()
    """Parameters of two or more dimensions that take no weight decay; those of fewer never do."""
    foreign_names: ClassVar[Sequence[tuple[str, str]]] = ()
    """(pattern, replacement) from the names inside a block of other people's checkpoints to ``mixer.NAME``."""
    foreign_tables: ClassVar[Mapping[str, Callable[[Tensor], bool]]] = {}
    """Endings of foreign keys that follow from the shape and are left out, with a check of their value."""

    def __init__(self, info: BlockInfo, *, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size

    def frame(self, x: Tensor) -> Tensor:
        """The map that is summed over: zero-padded at the bottom and right to whole windows, where there are such."""
        return x

    def values(self, x: Tensor) -> Tensor:
        """What is summed, (B, H, W, C), for a framed map, position by position."""
        return x

    def local_weights(self, x: Tensor) -> LocalWeights:
        """``w_ij`` for a framed map."""
        raise NotImplementedError

    def output(self, y: Tensor) -> Tensor:
        """What comes after the sum, (B, H, W, C), position by position."""
        return y

    def definition(self, x: Tensor) -> Tensor:
        """``output(sum_j w_ij * values_ij)``; a faster :meth:`forward` is held to it by a test."""
        height, width = x.shape[1:3]
        x = self.frame(x)
        return self.output(self.local_weights(x).aggregate(self.values(x)))[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        return self.definition(x)

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        """Fit a checkpoint's tensor of another window or input size to this mixer's parameter ``name``.

        Returns None where the two shapes have no such relation; the loader then reports a mismatch.
        """
        return None

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """What the paper's counter (:mod:`models.cost`) counts of a call besides the submodules: the sum."""
        return output.numel() * self.window_size**2

    @classmethod
    def from_foreign(cls, name: str, value: Tensor) -> Tensor:
        """A converted parameter ``name`` of the mixer in the shape that it has here."""
        return value
