"""VOLO and SVT with an operator of this zoo in place of their local attention (Table 13); the rest is timm's own."""

from typing import Any

import timm
from torch import Tensor, nn

from models.backbone import init_linear
from models.mixers import Site, build_mixer

VOLO_STRIDE = 8  # the outlookers of VOLO-d1 see maps of this stride


def volo_d1_with_mixer(
    *,
    mixer: str,
    mixer_args: dict[str, Any] | None = None,
    window_size: int = 7,
    img_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """timm's VOLO-d1 whose outlook attentions (192 channels, 6 heads) are replaced by a mixer.

    Args:
        mixer, mixer_args, window_size: the operator, as in :class:`models.backbone.LocalNet`.
        img_size, in_chans, num_classes, drop_rate, drop_path_rate: as in timm.
    """
    model = timm.create_model(
        "volo_d1_224",
        img_size=img_size,
        in_chans=in_chans,
        num_classes=num_classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    for index, outlooker in enumerate(model.network[0]):
        old = outlooker.attn
        site = Site(
            dim=old.v.in_features,
            resolution=(height // VOLO_STRIDE, width // VOLO_STRIDE),
            num_heads=old.num_heads,
            index=index,
        )
        outlooker.attn = build_mixer(mixer, site, window_size=window_size, **(mixer_args or {}))
        outlooker.attn.apply(init_linear)
    return model


class TokenMixer(nn.Module):
    """A mixer where the model around it holds tokens (B, H * W, C) and passes the size (H, W) of their map."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        batch, tokens, dim = x.shape
        return self.mixer(x.reshape(batch, *size, dim)).reshape(batch, tokens, dim)


def svt_small_with_mixer(
    *,
    mixer: str,
    mixer_args: dict[str, Any] | None = None,
    window_size: int = 7,
    img_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """timm's SVT-S (Twins) whose nine locally-grouped attentions are replaced by a mixer.

    Args:
        mixer, mixer_args, window_size: the operator, as in :class:`models.backbone.LocalNet`.
        img_size, in_chans, num_classes, drop_rate, drop_path_rate: as in timm.
    """
    model = timm.create_model(
        "twins_svt_small",
        img_size=img_size,
        in_chans=in_chans,
        num_classes=num_classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    for stage, blocks in enumerate(model.blocks):
        stride = 4 * 2**stage
        local = [block for block in blocks if type(block.attn).__name__ == "LocallyGroupedAttn"]
        for index, block in enumerate(local):
            site = Site(
                dim=block.attn.dim,
                resolution=(height // stride, width // stride),
                num_heads=block.attn.num_heads,
                stage=stage,
                index=index,
            )
            new = build_mixer(mixer, site, window_size=window_size, **(mixer_args or {}))
            block.attn = TokenMixer(new.apply(init_linear))
    return model
