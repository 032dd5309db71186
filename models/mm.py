"""The zoo's backbone for mmdet and mmseg: one class, registered once, found by both libraries."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from timm.models import group_parameters
from torch import Tensor, nn

from . import create_model
from .backbone import LocalNet
from .checkpoint import LoadReport, State, convert_state, load_pretrained, read_weights
from .errors import UserError, hint
from .layers import build_norm, normalize
from .mixers import mixer_class
from .zoo import weights_file

OUTPUT_NORM = re.compile(r"norm\d\.")


@MODELS.register_module()
class ZooBackbone(BaseModule):
    """A model of the zoo as a backbone: images (B, in_chans, H, W) to maps (B, C, H/4, W/4) ... (B, 8C, H/32, W/32).

    The parameters keep the names that they have in the zoo; ``norm0`` to ``norm3`` are the norms of the outputs, which
    take the place of the classifier's norm (PAPER section 4; section 3.1 of the paper).

    Args:
        name: a name of :func:`models.list_models`.
        out_indices: the stages whose maps are returned.
        out_norm: "bn", "ln" or "none"; None is the mixer's ``dense_norm``: Swin's LN, the authors' BN for all others.
        norm_from: the first stage whose map is normalised, for a neck that reads none before it.
        window_pad: zero-pad each map to whole windows before the operator and crop it after; None is the mixer's
            ``dense_window_pad``: the authors' dense DW-Conv and D-DW-Conv do, I-Dynamic not, and Swin pads by itself.
        frozen_stages: -1 trains all; 0 freezes the patch embedding, i also the first i stages and their output norms.
        with_cp: recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type="Pretrained", checkpoint=FILE)`` with a file of this project, of the authors or of Swin,
            or a name of the zoo for its released weights.
        overrides: arguments of :func:`models.create_model`, as ``drop_path_rate`` or ``window_size``.

    Raises:
        UserError: an unknown name, override or option, with the nearest valid one.
    """

    def __init__(
        self,
        name: str,
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = None,
        norm_from: int = 0,
        window_pad: bool | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(init_cfg)
        start_file(init_cfg)
        net = build_zoo_model(name, window_pad, overrides)
        if not -1 <= frozen_stages <= len(net.stages):
            raise UserError(f"frozen_stages: {frozen_stages} is not between -1 and {len(net.stages)}")
        if not set(out_indices) <= set(range(len(net.stages))):
            raise UserError(f"out_indices: {tuple(out_indices)} names a stage beyond 0..{len(net.stages) - 1}")
        net.set_grad_checkpointing(with_cp)
        self.patch_embed, self.stages = net.patch_embed, net.stages
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        kind = out_norm or mixer_class(net.init_args["mixer"]).dense_norm
        for index in self.out_indices:
            width = net.feature_info[index]["num_chs"]
            self.add_module(
                f"norm{index}", nn.Identity() if kind == "none" or index < norm_from else build_norm(kind, width)
            )
        self._freeze()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The chosen maps, each (B, C, H, W)."""
        x, maps = self.patch_embed(image), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                maps.append(normalize(self.get_submodule(f"norm{index}"), x).permute(0, 3, 1, 2).contiguous())
        return tuple(maps)

    def train(self, mode: bool = True) -> "ZooBackbone":
        """Switch the mode; what is frozen stays in evaluation mode, so its BN statistics stay too."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        frozen: list[nn.Module] = [self.patch_embed] if self.frozen_stages >= 0 else []
        for index in range(self.frozen_stages):
            frozen.append(self.stages[index])
            if index in self.out_indices:
                frozen.append(self.get_submodule(f"norm{index}"))
        for module in frozen:
            module.eval().requires_grad_(False)

    def layer_ids(self) -> dict[str, int]:
        """The layer of each parameter for layer-wise decay, as timm counts them: 0 the patch embedding, then blocks.

        The output norms count as one more layer, as the last norm of the classifier does.
        """
        layers = group_parameters(self, LocalNet.group_matcher(self), return_values=False, reverse=True)
        return {name: int(layer) for name, layer in layers.items()}

    def init_weights(self) -> None:
        """Load the pretrained file that ``init_cfg`` names; without one the zoo's own initialisation stays."""
        checkpoint = start_file(self.init_cfg)
        if checkpoint and not self.is_init:
            try:
                report = self.load_zoo_state(convert_state(read_weights(weights_file(checkpoint))))
            except UserError as error:
                raise UserError(f"init_cfg.checkpoint {checkpoint}: {error}") from error
            for line in report.lines():
                print_log(f"{checkpoint}: {line}", logger="current")
        self._is_init = True

    def load_zoo_state(self, state: State) -> LoadReport:
        """Load weights under the zoo's names: of a dense backbone (with norm0 ... norm3), or of a classifier, whose
        head and last norm are left out and whose output norms stay as initialised.

        Raises:
            UserError: any other missing or leftover key.
        """
        if any(OUTPUT_NORM.match(key) for key in state):
            own = self.state_dict()  # which may return fewer maps
            return load_pretrained(self, {k: v for k, v in state.items() if k in own or not OUTPUT_NORM.match(k)})
        state = {key: value for key, value in state.items() if key.split(".")[0] not in ("norm", "head")}
        outputs = {key: value for key, value in self.state_dict().items() if OUTPUT_NORM.match(key)}
        report = load_pretrained(self, {**state, **outputs})
        report.replaced_head = f"the output norms {', '.join(f'norm{index}' for index in self.out_indices)}"
        return report


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise decay of the learning rate: ``paramwise_cfg=dict(layer_decay=0.9, custom_keys=...)``.

    Each layer of the backbone has the rate of the next one times ``layer_decay``, by :meth:`ZooBackbone.layer_ids`;
    what is no backbone has the whole rate. All other rules of the library's default constructor hold.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", is_dcn_module: int | None = None
    ) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # the library calls this for every submodule
            return
        backbone = module.backbone
        if not isinstance(backbone, ZooBackbone):
            raise UserError("optim_wrapper.constructor: LayerDecayConstructor needs a ZooBackbone")
        layers, named = backbone.layer_ids(), dict(backbone.named_parameters())
        scales = {
            id(named[name]): self.paramwise_cfg["layer_decay"] ** (max(layers.values()) + 1 - layer)
            for name, layer in layers.items()
        }
        for group in params:
            (parameter,) = group["params"]
            group["lr"] = group.get("lr", self.base_lr) * scales.get(id(parameter), 1.0)


def start_file(init_cfg: Any) -> str | None:
    """The path or name in ``dict(type="Pretrained", checkpoint=...)``; None where there is none.

    Raises:
        UserError: it says something else, which the library would pass over; names what.
    """
    if init_cfg is None:
        return None
    if not isinstance(init_cfg, dict):
        raise UserError(f"init_cfg: a {type(init_cfg).__name__}; give one dict(type='Pretrained', checkpoint=FILE)")
    if init_cfg.get("type") != "Pretrained":
        raise UserError(f"init_cfg.type: {init_cfg.get('type')!r}; the backbone knows 'Pretrained' only")
    for key in init_cfg:
        if key not in ("type", "checkpoint"):
            raise UserError(f"init_cfg.{key}: unknown key; {hint(key, ('type', 'checkpoint'))}")
    checkpoint = init_cfg.get("checkpoint")
    if not isinstance(checkpoint, str) or not checkpoint or "://" in checkpoint:
        raise UserError(f"init_cfg.checkpoint: {checkpoint!r} is not the path of a file, nor a name of the zoo")
    return checkpoint


def build_zoo_model(name: str, window_pad: bool | None, overrides: dict[str, Any]) -> LocalNet:
    """The zoo's model without classifier; ``window_pad`` None follows the authors' dense backbones."""
    with torch.device("meta"):
        plan = create_model(name, num_classes=0, **overrides)
    if not isinstance(plan, LocalNet):
        raise UserError(f"backbone.name: {name!r} has no four stages of the zoo and cannot be a backbone")
    if window_pad is None:
        window_pad = mixer_class(plan.init_args["mixer"]).dense_window_pad
    if window_pad:
        overrides = {**overrides, "mixer_args": {**(overrides.get("mixer_args") or {}), "window_pad": True}}
    net = create_model(name, num_classes=0, **overrides)
    assert isinstance(net, LocalNet)
    return net
