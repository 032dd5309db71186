"""One backbone for all models of the paper: the pyramid of Swin, in which the token mixer is the variable.

Layout: maps are NHWC from the patch embedding on; four stages of width C, 2C, 4C, 8C at strides 4, 8, 16, 32 (patch
size 4). A block is ``x + mixer(x)`` and ``x + mlp(norm(x))``; Swin also normalises before its mixer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, SqueezeExcite, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import UserError
from .layers import DepthwiseConv, StillStatistics, apply_nchw, build_norm, build_pool, normalize
from .mixers import build_mixer, mixer_class
from .mixers.base import BlockInfo
from .timm_protocol import TimmProtocol


def missing(length: int, multiple: int) -> int:
    """What a length lacks to a multiple. Without a remainder of a negative number: exporters reason on this formula."""
    return (length + multiple - 1) // multiple * multiple - length


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad an NHWC map at the bottom and right."""
    return F.pad(x, (0, 0, 0, missing(x.shape[2], multiple), 0, missing(x.shape[1], multiple)))


class PatchEmbed(nn.Module):
    """(B, in_chans, H, W) to (B, H / patch, W / patch, dim): patch x patch convolution and LN; odd sizes are padded."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, missing(width, self.patch_size), 0, missing(height, self.patch_size)))
        # In NHWC memory the convolution writes the map as the blocks read it.
        image = image.contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """(B, H, W, C) to (B, H/2, W/2, 2C): concatenate 2x2 neighbours, LN, linear without bias; odd sizes are padded."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, 2)
        batch, height, width, dim = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * dim)))


class ExtraDepthwise(nn.Module):
    """The additional 7x7 depth-wise convolution and BN between mixer and MLP (Table 12)."""

    def __init__(self, dim: int, window_size: int, norm: str) -> None:
        super().__init__()
        self.conv = DepthwiseConv(dim, window_size, bias=False)
        self.norm = build_norm(norm, dim)

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.norm, self.conv(x))


class Block(nn.Module):
    """``x + mixer(x)``, ``x + mlp(norm(x))`` on NHWC maps, with stochastic depth on every branch.

    ``se`` is a squeeze-and-excitation (reduction 16) at the end of the extra depth-wise branch where there is one
    (Table 12), else of the mixer branch (Table 6).
    """

    def __init__(
        self,
        info: BlockInfo,
        *,
        mixer: str,
        mixer_args: dict[str, Any],
        window_size: int,
        mlp_ratio: float,
        drop_path: float,
        se: bool,
        extra_dw: bool,
    ) -> None:
        super().__init__()
        cls = mixer_class(mixer)
        dim, norm = info.dim, info.norm or cls.default_norm
        self.norm1 = build_norm(norm, dim) if cls.prenorm else nn.Identity()
        self.mixer = build_mixer(mixer, info, window_size=window_size, **mixer_args)
        self.extra_dw = ExtraDepthwise(dim, window_size, norm if norm != "ln" else "bn") if extra_dw else None
        self.se = SqueezeExcite(dim, rd_channels=max(dim // 16, 1)) if se else None
        self.norm2 = build_norm(norm, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixer(normalize(self.norm1, x))
        if self.extra_dw is not None:
            x = x + self.drop_path(y)
            y = self.extra_dw(x)
        if self.se is not None:
            y = apply_nchw(self.se, y)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(normalize(self.norm2, x)))


class Stage(nn.Module):
    """Patch merging (except in the first stage), then the blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                # The forward pass of the backward pass must not count the batch a second time.
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_recompute, block))
            else:
                x = block(x)
        return x


def _recompute(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a block's forward pass and of its repetition."""
    return nullcontext(), nullcontext() if torch.compiler.is_compiling() else StillStatistics(block)


# Smallest and largest value of each number; the upper ends are far from any use and keep a slip from filling memory.
LIMITS: dict[str, tuple[float, float]] = {
    "img_size": (1, 2**16),
    "patch_size": (1, 1024),
    "in_chans": (1, 2**16),
    "num_classes": (0, 10**7),
    "embed_dim": (1, 2**16),
    "depths": (1, 1000),
    "num_heads": (1, 2**16),
    "window_size": (1, 1024),
    "mlp_ratio": (0.01, 100),
    "drop_rate": (0, 1),
    "drop_path_rate": (0, 1),
}


def check_limits(arguments: dict[str, Any]) -> None:
    """Raises UserError for an argument outside :data:`LIMITS`, NaN too, naming it and the limits."""
    for key, (low, high) in LIMITS.items():
        value = arguments[key]
        if not all(low <= number <= high for number in (value if isinstance(value, Sequence) else [value])):
            raise UserError(f"{key}: must lie between {low:,} and {high:,}, not {value!s:.40}")


class LocalNet(TimmProtocol):
    """Four stages around one token mixer; logits from images (B, in_chans, H, W) of any size from 32 pixels.

    Args:
        mixer: name of the token mixer, one of list_mixers().
        mixer_args: options of that mixer's constructor.
        img_size: nominal input size in pixels, a side or (height, width); only mixers bound to a size depend on it.
        patch_size: side of the patches in pixels, which is the stride of the first stage.
        in_chans: channels of the images.
        num_classes: width of the classifier; 0 leaves pooled features.
        global_pool: "avg", or "" for none: the classifier then works on each position of the last map (B, H, W, 8C).
        embed_dim: channels of the first stage; each further stage has twice as many.
        depths: blocks per stage.
        num_heads: per stage, attention heads or channel groups that share kernels as Swin's heads do.
        window_size: side of the attention window and of the kernels, in positions of the map.
        mlp_ratio: width of the MLP's hidden layer, in channels of the stage.
        norm: "ln", "bn" or "ccbn" for all norms of the blocks (Table 9); None is the mixer's own (Swin LN, else BN).
        se: squeeze-and-excitation at the end of each mixer (Table 6).
        extra_dw: a further depth-wise convolution between mixer and MLP (Table 12).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.

    Raises:
        UserError: an option of the wrong length or value, named.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        *,
        mixer: str = "dw_conv",
        mixer_args: dict[str, Any] | None = None,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        norm: str | None = None,
        se: bool = False,
        extra_dw: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__()
        check_limits(given)
        if len(num_heads) != len(depths):
            raise UserError(f"num_heads: needs one number for each of the {len(depths)} stages, got {num_heads}")
        self.init_args = given
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = embed_dim * 2 ** (len(depths) - 1)
        self.grad_checkpointing = False
        size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        options: dict[str, Any] = {"mixer": mixer, "mixer_args": mixer_args or {}, "window_size": window_size}
        options |= {"mlp_ratio": mlp_ratio, "se": se, "extra_dw": extra_dw}

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        stages, self.feature_info = [], []
        for stage, depth in enumerate(depths):
            dim, stride = embed_dim * 2**stage, patch_size * 2**stage
            resolution = (-(-size[0] // stride), -(-size[1] // stride))
            info = BlockInfo(dim=dim, resolution=resolution, num_heads=num_heads[stage], stage=stage, norm=norm)
            blocks = [Block(replace(info, index=index), drop_path=next(rates), **options) for index in range(depth)]
            stages.append(Stage(PatchMerging(dim // 2) if stage else nn.Identity(), blocks))
            self.feature_info.append({"num_chs": dim, "reduction": stride, "module": f"stages.{stage}"})
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(self.num_features)
        self.global_pool = build_pool(global_pool)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the last normalised map (B, H/32, W/32, 8C)."""
        x = self.patch_embed(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the last map; ``pre_logits`` stops there, else (B, num_classes)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def init_linear(module: nn.Module) -> None:
    """Linear layers: truncated normal 0.02, bias 0. Convolutions, 1x1 ones too, and norms keep PyTorch's default.

    On the meta device there are no values to set, and torch takes its time to set them.
    """
    if isinstance(module, nn.Linear) and not hasattr(module, "is_pointwise_conv") and not module.weight.is_meta:
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
