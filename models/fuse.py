"""Inference mode: every batch norm folded into its neighbour, and an order of work that suits the cache.

    model = models.fuse(models.create_model("dw_conv_tiny"))

In evaluation a batch norm multiplies each channel by a constant and adds one. Beside a linear map that is part of the
map. Where it has no such neighbour it becomes one multiply-add: after the aggregation of I-Dynamic, whose weights are
shared by channels with different norms, and before a layer that zero-pads.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .backbone import Block, ExtraDepthwise, LocalNet
from .errors import UserError
from .fused import (
    ChannelAffine,
    FusedDepthwise,
    FusedDepthwiseBlock,
    FusedLinear,
    ImageBlockedStage,
    NormedReLU,
    constant,
)
from .layers import DepthwiseConv, PointwiseConv
from .mixers.d_dw_conv import DynamicDepthwiseConv, ImageKernels
from .mixers.dw_conv import DepthwiseMixer
from .mixers.i_dynamic import PositionKernels

Model = TypeVar("Model", bound=nn.Module)
Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def fuse(model: Model) -> Model:
    """A copy of the model for inference: evaluation mode, no gradients, no batch norm, the same logits.

    It runs on any device, exports with `torch.export` and `torch.onnx.export`, and on a CPU it works on a few images at
    a time where the maps are large. Its state dict is its own: load weights before fusing.

    Args:
        model: a model of this project. Of other modules only plain batch norms are replaced.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        for kind, fold in _FOLDS.items():
            if isinstance(module, kind):
                fold(module)
    for module in list(fused.modules()):
        _replace_children(module, inside=isinstance(fused, LocalNet))
    if isinstance(fused, LocalNet):
        fused.stages = nn.ModuleList(
            ImageBlockedStage(stage.downsample, [_shortened(block) for block in stage.blocks]) for stage in fused.stages
        )
    return fused


def _shortened(block: Any) -> nn.Module:
    """A folded depth-wise block with its residual sums inside its linear layers, where it has no further parts."""
    mixer = block.mixer
    plain = isinstance(mixer, DepthwiseMixer) and not mixer.window_pad and type(mixer.norm_out) is nn.Identity
    plain = plain and block.extra_dw is None and block.se is None and isinstance(mixer.proj_out, FusedLinear)
    return FusedDepthwiseBlock(block) if plain and isinstance(block.mlp.fc2, FusedLinear) else block


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds, in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("fuse: a batch norm without running statistics depends on the batch and cannot be folded")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _plus(bias: Tensor | None, shift: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    return shift if bias is None else bias.double() * scale + shift


def _linear(layer: Any, activation: str = "none") -> FusedLinear:
    """A linear layer or 1x1 convolution as it is."""
    bias = None if layer.bias is None else constant(layer.bias, layer.weight)
    return FusedLinear(constant(layer.weight.flatten(1), layer.weight), bias, activation)


def _linear_then_norm(layer: Any, norm: Norm, activation: str = "none") -> FusedLinear:
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.flatten(1).double() * scale[:, None]
    bias = constant(_plus(layer.bias, shift, scale), layer.weight)
    return FusedLinear(constant(weight, layer.weight), bias, activation)


def _norm_then_linear(norm: Norm, layer: Any, activation: str = "none") -> FusedLinear:
    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.double()
    bias = constant(_plus(layer.bias, weight @ shift), layer.weight)
    return FusedLinear(constant(weight * scale, layer.weight), bias, activation)


def _fold_into_operator(operator: Any, norm: Any) -> bool:
    """Fold a norm into the operator before it; False where that is not exact and nothing was done."""
    if not isinstance(norm, Norm):
        return False
    like: Any = norm.running_var
    scale, shift = _scale_and_shift(norm)
    if isinstance(operator, DepthwiseConv):
        weight = operator.weight.double().repeat_interleave(operator.dim // operator.groups, dim=0)
        bias = _plus(operator.bias, shift, scale)
        operator.weight, operator.groups = constant(weight * scale[:, None, None], operator.weight), operator.dim
    elif isinstance(operator, DynamicDepthwiseConv) and operator.generator.groups == len(scale):
        bias = _plus(operator.bias, shift, scale)
        expand: Any = operator.generator.expand
        scale = scale.repeat_interleave(operator.generator.kernel_size**2)
        weight = expand.weight.flatten(1).double() * scale[:, None]
        expand_bias = constant(_plus(expand.bias, torch.zeros_like(scale), scale), expand.weight)
        generator: Any = operator.generator
        generator.expand = FusedLinear(constant(weight, expand.weight), expand_bias)
    else:
        return False
    operator.bias = constant(bias, like)
    return True


def _fold_depthwise(mixer: Any) -> None:
    """1x1 conv + norm, operator + norm, 1x1 conv + norm, each with its ReLU."""
    mixer.act = nn.Identity()
    if isinstance(mixer.norm_in, Norm):
        mixer.proj_in = _linear_then_norm(mixer.proj_in, mixer.norm_in, "relu")
    else:
        mixer.proj_in = NormedReLU(_linear(mixer.proj_in), mixer.norm_in)
    folded = _fold_into_operator(mixer.op, mixer.norm_op)
    if folded and isinstance(mixer.op, DepthwiseConv):
        mixer.op = FusedDepthwise(mixer.op)
    else:
        mixer.op = NormedReLU(mixer.op, nn.Identity() if folded else mixer.norm_op)
    mixer.norm_in = mixer.norm_op = nn.Identity()
    if isinstance(mixer.norm_out, Norm):
        mixer.proj_out = _linear_then_norm(mixer.proj_out, mixer.norm_out)
        mixer.norm_out = nn.Identity()


def _fold_generator(generator: Any) -> None:
    generator.reduce = _linear_then_norm(generator.reduce, generator.norm, "relu")
    generator.norm = generator.act = nn.Identity()


def _fold_extra(extra: Any) -> None:
    if _fold_into_operator(extra.conv, extra.norm):
        extra.norm = nn.Identity()


def _fold_block(block: Any) -> None:
    """The norm before the MLP into its first layer, the activation into the same call."""
    mlp = block.mlp
    activation = "gelu" if isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none" else "none"
    if isinstance(block.norm2, Norm):
        mlp.fc1 = _norm_then_linear(block.norm2, mlp.fc1, activation)
        block.norm2 = nn.Identity()
    else:
        mlp.fc1 = _linear(mlp.fc1, activation)
    mlp.act = nn.Identity() if activation == "gelu" else mlp.act


# Modules are edited in place, which their classes do not declare: hence Any above.
_FOLDS: dict[type[nn.Module], Callable[[Any], None]] = {
    DepthwiseMixer: _fold_depthwise,
    ImageKernels: _fold_generator,
    PositionKernels: _fold_generator,
    ExtraDepthwise: _fold_extra,
    Block: _fold_block,
}


def _replace_children(module: nn.Module, inside: bool) -> None:
    """Turn what is left into fused modules: batch norms anywhere, linear layers in models of this project."""
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm2d, nn.SyncBatchNorm):
            scale, shift = _scale_and_shift(child)
            reference: Any = child.running_var
            setattr(module, name, ChannelAffine(constant(scale, reference), constant(shift, reference)))
        elif inside and type(child) in (nn.Linear, PointwiseConv):
            setattr(module, name, _linear(child))
