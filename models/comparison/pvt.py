"""Pyramid Vision Transformer (PVT-S, -M and -L of Table 8): attention over a spatially reduced map of keys.

In the paper's terms: no locality, weights shared within heads, dynamic; the pyramid and the reduced keys are spatial
low rank (appendix A).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbone import init_linear
from ..errors import UserError

WIDTHS = (64, 128, 320, 512)
HEADS = (1, 2, 5, 8)
MLP_RATIOS = (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
EPS = 1e-6


class ReducedAttention(nn.Module):
    """Global attention whose keys and values come from the map reduced by a strided convolution.

    Tokens are (B, N, C); the last H * W of them are the map, and a class token may stand before it where the reduction
    is 1.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        batch, tokens, dim = x.shape
        source = x
        if self.reduce is not None:
            source = self.reduce(x.transpose(1, 2).reshape(batch, dim, *size))
            source = self.norm(source.flatten(2).transpose(1, 2))
        query = self.q(x).view(batch, tokens, self.num_heads, -1).transpose(1, 2)
        key, value = (
            self.kv(source).view(batch, source.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))


class PVTBlock(nn.Module):
    """``x + attention(LN(x))``, ``x + mlp(LN(x))`` on tokens (B, N, C), with stochastic depth on both branches."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = ReducedAttention(dim, num_heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, dim * mlp_ratio)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PVTStage(nn.Module):
    """Patch embedding with learned positions, then the blocks; the last stage prepends a class token.

    ``grid`` is the map at the nominal input size; positions are interpolated (bilinear) for maps of other sizes.
    """

    def __init__(
        self, in_dim: int, dim: int, patch: int, grid: tuple[int, int], blocks: list[PVTBlock], class_token: bool
    ) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(in_dim, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)
        self.cls_token = nn.Parameter(trunc_normal_(torch.zeros(1, 1, dim), std=0.02)) if class_token else None
        tokens = grid[0] * grid[1] + int(class_token)
        self.pos_embed = nn.Parameter(trunc_normal_(torch.zeros(1, tokens, dim), std=0.02))
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Position embeddings (1, tokens, C) for a map of this size."""
        if size == self.grid:
            return self.pos_embed
        extra = 0 if self.cls_token is None else 1
        head, table = self.pos_embed[:, :extra], self.pos_embed[:, extra:]
        table = table.transpose(1, 2).reshape(1, -1, *self.grid)
        table = F.interpolate(table, size, mode="bilinear")
        return torch.cat((head, table.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) to tokens (B, N, C') and the size of their map."""
        x = self.proj(x)
        size = (x.shape[2], x.shape[3])
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.positions(size)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, size, use_reentrant=False)
            else:
                x = block(x, size)
        return x, size


class PVT(nn.Module):
    """Pyramid Vision Transformer: logits from images (B, in_chans, H, W), H and W multiples of 32.

    Args:
        depths: blocks of the four stages.
        img_size: nominal input size, to which the position embeddings belong.
        num_classes: width of the classifier; 0 leaves the class token's features.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0 at the first.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans, self.num_classes, self.drop_rate = in_chans, num_classes, drop_rate
        self.num_features = self.head_hidden_size = WIDTHS[-1]
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        stages = []
        for stage, (depth, dim) in enumerate(zip(depths, WIDTHS, strict=True)):
            stride = 4 * 2**stage
            start = sum(depths[:stage])
            blocks = [
                PVTBlock(dim, HEADS[stage], MLP_RATIOS[stage], REDUCTIONS[stage], rate)
                for rate in rates[start : start + depth]
            ]
            in_dim, patch = (WIDTHS[stage - 1], 2) if stage else (in_chans, 4)
            grid = (size[0] // stride, size[1] // stride)
            stages.append(PVTStage(in_dim, dim, patch, grid, blocks, class_token=stage == len(WIDTHS) - 1))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(self.num_features, eps=EPS)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(init_linear)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names besides 1-D parameters that take no weight decay: class token and positions."""
        return {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "cls_token"))}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm splits the parameters into layers (layer-wise learning-rate decay)."""
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)", (0,)), (r"^norm", (99999,))]
        return {"stem": r"^stages\.0\.(proj|norm|pos_embed)", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations; changes no value."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity`` where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes``; 0 leaves features. The only pooling is the class token."""
        if global_pool not in (None, "token"):
            raise UserError(f"global_pool: {global_pool!r} is not known (one of: token)")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the normalised tokens (B, 1 + H/32 * W/32, 512), the class token first."""
        tokens = x
        for index, stage in enumerate(self.stages):
            tokens, size = stage(x)
            if index + 1 < len(self.stages):
                x = tokens.transpose(1, 2).reshape(x.shape[0], -1, *size)
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token's features, or with ``pre_logits=False`` its logits (B, num_classes)."""
        x = F.dropout(x[:, 0], self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
