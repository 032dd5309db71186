"""The attention products of VOLO and SVT, which the paper's counter adds by hand as it does for Swin (Table 13)."""

from typing import Any

from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn, Twins
from timm.models.volo import Attention, ClassAttention, OutlookAttention
from torch import Tensor

from models.cost import Rules, paper_rule


@paper_rule(Attention)
def _global_attention(module: Attention, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """Both products, over the whole map (B, H, W, C)."""
    tokens = output.shape[1] * output.shape[2]
    return 2 * output.numel() * tokens


@paper_rule(ClassAttention)
def _class_attention(module: ClassAttention, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """Both products of the class token alone with all tokens (B, N, C)."""
    return 2 * inputs[0].numel()


@paper_rule(OutlookAttention)
def _outlook_attention(module: OutlookAttention, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """The product of the generated weights, k^2 x k^2 at each position of the strided map, with the values."""
    batch, height, width, dim = output.shape
    positions = -(-height // module.stride) * -(-width // module.stride)
    return batch * positions * module.kernel_size**4 * dim


@paper_rule(Twins)
def _svt(module: Twins, inputs: tuple[Tensor, ...], output: Any, rules: Rules) -> int:
    """Both products of the sub-sampled global attentions.

    The paper's figure of the original SVT-S (2.8G) leaves all attention products out, and that of its depth-wise
    variant (2.7G) has them. Both are reproduced.
    """
    if any(isinstance(part, LocallyGroupedAttn) for part in module.modules()):
        return 0
    batch, _, height, width = inputs[0].shape
    total = 0
    stages: Any = zip(module.patch_embeds, module.blocks, strict=True)
    for embed, blocks in stages:
        height, width = height // embed.patch_size[0], width // embed.patch_size[1]
        tokens = height * width
        for block in blocks:
            if isinstance(block.attn, GlobalSubSampleAttn):
                total += 2 * batch * tokens * (tokens // block.attn.sr_ratio**2) * block.attn.dim
    return total
