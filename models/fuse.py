"""Inference mode: every batch norm folded into its neighbour, and an order of work that suits the cache.

    model = models.fuse(models.create_model("dw_conv_tiny"))

In evaluation a batch norm multiplies each channel by a constant and adds one. Beside a linear map that is part of the
map. Where it has no such neighbour it becomes one multiply-add: after the aggregation of I-Dynamic, whose weights are
shared by channels with different norms, and before a layer that zero-pads.
"""

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .backbone import Block, ExtraDepthwise, LocalNet, Stage
from .fused import (
    ChannelAffine,
    FusedLinear,
    Norm,
    as_linear,
    constant,
    fold_into_operator,
    norm_then_linear,
    scale_and_shift,
)
from .layers import normalize
from .ops.inference import runs_eagerly

Model = TypeVar("Model", bound=nn.Module)
# Elements of the widest map of a block, the hidden one of its MLP, that are worked on at a time. Above 32 MB the system
# allocates a map anew at each call, which costs more than the products; far below, oneDNN's calls are too short.
BLOCK_ELEMENTS = 5_000_000


def fuse(model: Model) -> Model:
    """A copy of the model for inference: evaluation mode, no gradients, no batch norm, the same logits.

    It runs on any device, exports with `torch.export` and `torch.onnx.export`, and on a CPU it works on a few images at
    a time where the maps are large. Its state dict is its own: load weights before fusing.

    Args:
        model: a model of this project. Of other modules only plain batch norms are replaced.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    module: Any
    for module in list(fused.modules()):
        if hasattr(module, "fold"):
            module.fold()
        elif isinstance(module, ExtraDepthwise):
            _fold_extra(module)
        elif isinstance(module, Block):
            _fold_block(module)
    for module in list(fused.modules()):
        _replace_children(module, inside=isinstance(fused, LocalNet))
    if isinstance(fused, LocalNet):
        fused.stages = nn.ModuleList(
            ImageBlockedStage(stage.downsample, [_shortened(block) for block in stage.blocks]) for stage in fused.stages
        )
    return fused


def _shortened(block: Any) -> nn.Module:
    """A folded block with its residual sums inside its linear layers, where its parts allow that."""
    plain = block.extra_dw is None and block.se is None and isinstance(block.mlp.fc2, FusedLinear)
    return FusedBlock(block) if plain and getattr(block.mixer, "adds_residual", False) else block


def _fold_extra(extra: Any) -> None:
    if fold_into_operator(extra.conv, extra.norm):
        extra.norm = nn.Identity()


def _fold_block(block: Any) -> None:
    """The norm before the MLP into its first layer, the activation into the same call."""
    mlp = block.mlp
    activation = "gelu" if isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none" else "none"
    if isinstance(block.norm2, Norm):
        mlp.fc1 = norm_then_linear(block.norm2, mlp.fc1, activation)
        block.norm2 = nn.Identity()
    else:
        mlp.fc1 = as_linear(mlp.fc1, activation)
    mlp.act = nn.Identity() if activation == "gelu" else mlp.act


def _replace_children(module: nn.Module, inside: bool) -> None:
    """Turn what is left into fused modules: batch norms anywhere, linear layers in models of this project, but for
    those whose weights their parent uses itself (``applied_elsewhere``).
    """
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm2d, nn.SyncBatchNorm):
            scale, shift = scale_and_shift(child)
            reference: Any = child.running_var
            setattr(module, name, ChannelAffine(constant(scale, reference), constant(shift, reference)))
        elif inside and type(child) is nn.Linear and name not in getattr(module, "applied_elsewhere", ()):
            setattr(module, name, as_linear(child))


class FusedBlock(nn.Module):
    """A block whose norms are folded, the residual sums inside the last calls of its two branches.

    The names of its parts are those of :class:`models.backbone.Block`.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.mixer, self.norm2, self.mlp = block.mixer, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        mixer: Any = self.mixer
        mlp: Any = self.mlp
        x = mixer.added_to(x)
        return mlp.fc2(mlp.act(mlp.fc1(normalize(self.norm2, x))), residual=x)


class ImageBlockedStage(Stage):
    """A stage that works on a few images at a time, so that no map is too large for memory that is used again."""

    def forward(self, x: Tensor) -> Tensor:
        if not runs_eagerly(x):
            return super().forward(x)
        images = self._images(x)
        if images >= len(x):
            return super().forward(x)
        return torch.cat([super(ImageBlockedStage, self).forward(part) for part in x.split(images)])

    def _images(self, x: Tensor) -> int:
        # An MLP widens by four; merging quarters the positions and doubles the width.
        hidden = x.shape[1] * x.shape[2] * x.shape[3] * (4 if isinstance(self.downsample, nn.Identity) else 2)
        return max(1, BLOCK_ELEMENTS // hidden)
