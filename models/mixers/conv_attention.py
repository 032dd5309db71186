"""Convolutional attention and its relatives over sliding windows (Appendix B)."""

from dataclasses import replace

from torch import Tensor, nn

from models.mixers import nearest, register_mixer
from models.mixers.base import Mixer, Site
from models.mixers.properties import Properties, channel_sharing
from models.mixers.window_weights import FORMS, WindowWeights
from models.ops import local_aggregate


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

    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )

    def __init__(self, site: Site, *, window_size: int = 7, form: str = "dot_product", softmax: bool = True) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"mixer_args.form: {form!r} is not known{nearest(form, FORMS)}")
        if site.dim % site.num_heads:
            raise ValueError(f"num_heads: {site.dim} channels cannot be split evenly into {site.num_heads} heads")
        self.weights = WindowWeights(site.dim, site.num_heads, window_size, form=form, softmax=softmax)
        self.value = nn.Linear(site.dim, site.dim)
        self.proj = nn.Linear(site.dim, site.dim)
        self.properties = replace(self.properties, shared_channels=channel_sharing(site.num_heads, site.dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(local_aggregate(self.value(x), self.weights(x)))
