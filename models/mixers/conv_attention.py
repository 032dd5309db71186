"""Convolutional attention: the seven ways of Appendix B to compute a window's weights (equations 18 to 25)."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..errors import UserError, hint
from ..layers import DepthwiseConv, apply_nchw, normalize
from ..ops import window_products
from ..ops.reference import same_padding
from . import register_mixer
from .base import BlockInfo, LocalWeights, Mixer, Properties, Variant, channel_sharing


@dataclass(frozen=True, kw_only=True)
class Form:
    """Which terms the weights of one form have."""

    equation: str
    dot: bool = True
    """Products of the query with the keys of the window."""
    theta: bool = False
    """A linear map of the centre's features, one row for each offset."""
    beta: bool = False
    """One learned number for each offset."""
    post: bool = False
    """A convolution over the offsets, after the products."""
    pre: Literal["none", "shared", "full"] = "none"
    """A convolution over the map, before the products."""


FORMS: dict[str, Form] = {
    "inhomogeneous": Form(equation="18", dot=False, theta=True),
    "dot_product": Form(equation="19, 20"),
    "relative_position": Form(equation="21", beta=True),
    "static_dynamic": Form(equation="22", theta=True),
    "post_conv": Form(equation="23", post=True),
    "pre_conv": Form(equation="24", pre="shared"),
    "pre_conv_full": Form(equation="25", pre="full"),
}


class OffsetConv(nn.Module):
    """Convolve (B, H, W, G, k, k) weights over their k x k offsets, one 3x3 kernel for each head (equation 23).

    The offsets wrap around, as the matrix that the paper prints does. The kernel starts as the identity.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        weight = torch.zeros(heads, 1, 3, 3)
        weight[:, :, 1, 1] = 1
        self.weight = nn.Parameter(weight)

    def forward(self, scores: Tensor) -> Tensor:
        heads, side = scores.shape[-3], scores.shape[-1]
        # Repeated by hand: circular padding refuses windows smaller than itself, and a window of 1 is a valid one.
        wrap = torch.arange(-1, side + 1, device=scores.device) % side
        padded = scores.flatten(0, 2)[:, :, wrap][..., wrap]
        return F.conv2d(padded, self.weight, groups=heads).view(scores.shape)


class PreConv(nn.Module):
    """The 3x3 convolution of (B, H, W, C) before the products, then BN and ReLU (equations 24 and 25).

    "shared" has one kernel for all channels, "full" is an ordinary convolution that mixes them.
    """

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.conv: nn.Module = (
            DepthwiseConv(dim, 3, groups=1, bias=False)
            if kind == "shared"
            else nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(dim)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) if isinstance(self.conv, DepthwiseConv) else apply_nchw(self.conv, x)
        return self.act(normalize(self.norm, x))


class WindowWeights(nn.Module):
    """Weights of each position's k x k window for each head: (B, H, W, C) to (B, H, W, heads, k, k).

    Args:
        dim: channels C.
        heads: M pairs of query and key give M weights for each offset.
        kernel_size: side k of the window, centred on the position.
        form: a key of :data:`FORMS`.
        softmax: normalise each window's weights; offsets outside the map then have weight 0. Appendix B leaves it out
            of its formulas and says that they hold with it.
    """

    def __init__(self, dim: int, heads: int, kernel_size: int, *, form: str, softmax: bool) -> None:
        super().__init__()
        self.heads, self.kernel_size, self.softmax = heads, kernel_size, softmax
        terms = FORMS[form]
        self.scale = (dim // heads) ** -0.5
        self.qk = nn.Linear(dim, 2 * dim) if terms.dot else None
        self.pre = PreConv(dim, terms.pre) if terms.pre != "none" else None
        self.post = OffsetConv(heads) if terms.post else None
        self.theta = nn.Linear(dim, heads * kernel_size**2, bias=False) if terms.theta else None
        self.beta: nn.Parameter | None = None
        if terms.beta:
            self.beta = nn.Parameter(trunc_normal_(torch.zeros(heads, kernel_size, kernel_size), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        terms = [term for term in (self._products(x), self._static(x), self.beta) if term is not None]
        scores = sum(terms[1:], start=terms[0])
        return self._normalized(scores) if self.softmax else scores

    def _products(self, x: Tensor) -> Tensor | None:
        """Theta_d x_i of equations 20 to 25."""
        if self.qk is None:
            return None
        query, key = self.qk(x if self.pre is None else self.pre(x)).chunk(2, dim=-1)
        scores = window_products(query * self.scale, key, self.heads, self.kernel_size)
        return scores if self.post is None else self.post(scores)

    def _static(self, x: Tensor) -> Tensor | None:
        """Theta x_i of equations 18 and 22."""
        if self.theta is None:
            return None
        return self.theta(x).unflatten(-1, (self.heads, self.kernel_size, self.kernel_size))

    def _normalized(self, scores: Tensor) -> Tensor:
        outside = outside_the_map((scores.shape[1], scores.shape[2]), self.kernel_size, scores.device)
        scores = scores.masked_fill(outside[:, :, None], float("-inf"))
        return scores.flatten(-2).softmax(-1).view(scores.shape)

    def paper_macs(self, inputs: tuple[Any, ...], output: Tensor, rules: Any) -> int:
        """Softmax, products of query and key, convolution over the offsets; the projections count themselves."""
        count = rules.softmax * self.softmax + 9 * (self.post is not None)
        products = inputs[0].numel() * self.kernel_size**2 if self.qk is not None else 0
        return count * output.numel() + products


def outside_the_map(size: tuple[int, int], kernel: int, device: torch.device) -> Tensor:
    """Whether an offset of a position's window lies outside the map: (H, W, k, k)."""
    inside = []
    for length in size:
        at = (
            torch.arange(length, device=device)[:, None] + torch.arange(kernel, device=device) - same_padding(kernel)[0]
        )
        inside.append((at >= 0) & (at < length))
    return ~(inside[0][:, None, :, None] & inside[1][None, :, None, :])


@register_mixer("conv_attention")
class ConvAttention(Mixer):
    """Aggregate the values of the window around each position with weights of one of the forms of Appendix B.

    As in Swin there are a projection of the values, heads, an output projection, and LN before. Unlike in Swin the
    window slides (the dense case of Appendix A), so that every form sees the same positions. ``form``:

    - ``inhomogeneous`` (equation 18): Theta x_i, dynamic convolution with a single projection;
    - ``dot_product`` (19, 20): query times keys;
    - ``relative_position`` (21): and a learned number for each offset;
    - ``static_dynamic`` (22): and Theta x_i;
    - ``post_conv`` (23): the products convolved over the offsets;
    - ``pre_conv`` (24): the features convolved before the products, one 3x3 kernel for all channels;
    - ``pre_conv_full`` (25): the same with an ordinary 3x3 convolution.
    """

    variants = {
        f"conv_attention_{form}": Variant(
            label=f"{form.replace('_', ' ')} (eq. {terms.equation})", options={"form": form}
        )
        for form, terms in FORMS.items()
    }
    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )

    no_weight_decay = ("weights.beta",)  # added to the scores as Swin's relative position table is

    def __init__(
        self, info: BlockInfo, *, window_size: int = 7, form: str = "dot_product", softmax: bool = True
    ) -> None:
        super().__init__(info, window_size=window_size)
        if form not in FORMS:
            raise UserError(f"mixer_args.form: {form!r} is not known; {hint(form, FORMS)}")
        if info.dim % info.num_heads:
            raise UserError(f"num_heads: {info.dim} channels cannot be split evenly into {info.num_heads} heads")
        self.weights = WindowWeights(info.dim, info.num_heads, window_size, form=form, softmax=softmax)
        self.value = nn.Linear(info.dim, info.dim)
        self.proj = nn.Linear(info.dim, info.dim)
        self.properties = replace(self.properties, shared_channels=channel_sharing(info.num_heads, info.dim))

    def values(self, x: Tensor) -> Tensor:
        return self.value(x)

    def local_weights(self, x: Tensor) -> LocalWeights:
        return LocalWeights(self.weights(x))

    def output(self, y: Tensor) -> Tensor:
        return self.proj(y)
