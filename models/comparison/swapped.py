"""VOLO and SVT with an operator of this zoo in place of their local attention (Table 13); the rest is timm's own."""

from typing import Any

from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn, Twins
from timm.models.volo import VOLO, Attention, ClassAttention, OutlookAttention
from torch import Tensor, nn

from ..backbone import init_linear
from ..cost import Rules, paper_rule
from ..mixers import BlockInfo, build_mixer


class TokenMixer(nn.Module):
    """A mixer where the model around it holds tokens (B, H * W, C) and passes the size (H, W) of their map."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        batch, tokens, dim = x.shape
        return self.mixer(x.reshape(batch, *size, dim)).reshape(batch, tokens, dim)


def volo_with_mixer(
    *,
    mixer: str | None = None,
    mixer_args: dict[str, Any] | None = None,
    window_size: int = 7,
    layers: tuple[int, ...] = (4, 4, 8, 2),
    embed_dim: tuple[int, ...] = (192, 384, 384, 384),
    num_heads: tuple[int, ...] = (6, 12, 12, 12),
    patch_size: int = 8,
    img_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> VOLO:
    """timm's VOLO whose outlook attentions are replaced by a mixer; the defaults are VOLO-d1.

    Args:
        mixer: None keeps the outlook attention.
        mixer_args, window_size: of the mixer, as in :class:`models.backbone.LocalNet`.
        layers, embed_dim, num_heads, patch_size: of VOLO, per stage.
        img_size, in_chans, num_classes, drop_rate, drop_path_rate: as in timm.
    """
    model: Any = VOLO(
        list(layers),
        img_size=img_size,  # type: ignore[arg-type]
        in_chans=in_chans,
        num_classes=num_classes,
        patch_size=patch_size,
        embed_dims=list(embed_dim),
        num_heads=list(num_heads),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    for index, outlooker in enumerate(model.network[0]):
        if mixer is not None:
            place = BlockInfo(
                dim=embed_dim[0], resolution=_grid(img_size, patch_size), num_heads=num_heads[0], index=index
            )
            outlooker.attn = _new_mixer(mixer, place, window_size, mixer_args)
    return model


def svt_with_mixer(
    *,
    mixer: str | None = None,
    mixer_args: dict[str, Any] | None = None,
    window_size: int = 7,
    depths: tuple[int, ...] = (2, 2, 10, 4),
    embed_dim: tuple[int, ...] = (64, 128, 256, 512),
    num_heads: tuple[int, ...] = (2, 4, 8, 16),
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
    patch_size: int = 4,
    img_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Twins:
    """timm's SVT (Twins) whose locally-grouped attentions are replaced by a mixer; the defaults are SVT-S.

    Args:
        mixer: None keeps the locally-grouped attention.
        mixer_args, window_size: of the mixer, as in :class:`models.backbone.LocalNet`.
        depths, embed_dim, num_heads, sr_ratios, patch_size: of SVT, per stage.
        img_size, in_chans, num_classes, drop_rate, drop_path_rate: as in timm.
    """
    model: Any = Twins(
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dims=embed_dim,
        num_heads=num_heads,
        depths=depths,
        sr_ratios=sr_ratios,
        wss=(window_size,) * len(depths),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    for stage, blocks in enumerate(model.blocks):
        local = [block for block in blocks if isinstance(block.attn, LocallyGroupedAttn)]
        for index, block in enumerate(local):
            if mixer is not None:
                grid = _grid(img_size, patch_size * 2**stage)
                place = BlockInfo(
                    dim=embed_dim[stage], resolution=grid, num_heads=num_heads[stage], stage=stage, index=index
                )
                block.attn = TokenMixer(_new_mixer(mixer, place, window_size, mixer_args))
    return model


def _new_mixer(name: str, place: BlockInfo, window_size: int, options: dict[str, Any] | None) -> nn.Module:
    return build_mixer(name, place, window_size=window_size, **(options or {})).apply(init_linear)


def _grid(img_size: int | tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height // stride, width // stride


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
