"""What timm, and whoever uses timm's models, may ask of the backbone besides its forward pass."""

import logging
from pathlib import Path
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .errors import UserError
from .layers import build_pool
from .mixers.base import Mixer

LOG = logging.getLogger(__name__)


class TimmProtocol(nn.Module):
    """The protocol of a timm model for a backbone made of patch_embed, stages, norm, global_pool and head."""

    init_args: dict[str, Any]
    num_classes: int
    num_features: int
    patch_embed: nn.Module
    stages: Any  # nn.ModuleList of stages
    norm: nn.Module
    global_pool: nn.Module
    head: nn.Module
    grad_checkpointing: bool

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Stage outputs before patch merging, as timm returns them: a list, or (last map in NHWC, list).

        The maps are (B, C, H, W) views of channels-last memory, or (B, H, W, C) with ``output_fmt="NHWC"``.
        ``norm`` applies the final norm to the last stage's map. ``indices`` as in timm: last n, a list, or all.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise UserError(f"output_fmt: {output_fmt!r} is not known (one of: NCHW, NHWC)")
        take, last = feature_take_indices(len(self.stages), indices)
        maps: list[Tensor] = []
        x = self.patch_embed(x)
        end = len(self.stages) - 1
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if index in take:
                y = self.norm(x) if norm and index == end else x
                maps.append(y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y)
        if intermediates_only:
            return maps
        return (self.norm(x) if index == end else x), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the given stage outputs do not need; returns the stages kept as outputs."""
        take, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last < len(self.stages) - 1:
            self.norm = nn.Identity()
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return take

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity`` where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes``; 0 leaves pooled features.

        Args:
            global_pool: "avg", or "" for none, which leaves the map (B, H, W, C); None: as it is.
        """
        if global_pool is not None:
            self.global_pool = build_pool(global_pool)
            self.init_args["global_pool"] = global_pool
        self.num_classes = self.init_args["num_classes"] = num_classes
        reference = self.patch_embed.norm.weight  # type: ignore[union-attr]
        head: nn.Module = nn.Identity()
        if num_classes:
            head = nn.Linear(self.num_features, num_classes, device=reference.device, dtype=reference.dtype)
            trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.head = head

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names besides 1-D parameters that take no weight decay, as the mixers declare them."""
        mixers = ((name, module) for name, module in self.named_modules() if isinstance(module, Mixer))
        wanted = {f"{name}.{own}" for name, mixer in mixers for own in mixer.no_weight_decay}
        return wanted & {name for name, _ in self.named_parameters()}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm splits the parameters into layers (layer-wise learning-rate decay)."""
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations; changes no value."""
        self.grad_checkpointing = enable
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, window_size: int | None = None) -> None:
        """Move the model to another nominal input size or window, resizing what belongs to the old one.

        Position tables, kernels and generator outputs are interpolated as for fine-tuning at 384 (Table 5). Maps of
        any size are accepted without this; it matters for windows and for weights bound to positions. What is frozen
        or in evaluation mode stays so.
        """
        from .checkpoint import load_pretrained

        changed = {"img_size": img_size, "window_size": window_size}
        args = {**self.init_args, **{key: value for key, value in changed.items() if value is not None}}
        reference = next(self.stages.parameters())
        with torch.device(reference.device):
            new = type(self)(**args)
        stages = new.stages[: len(self.stages)]  # features_only may have dropped some
        load_pretrained(stages, self.stages.state_dict())
        stages.to(dtype=reference.dtype)
        for name, parameter in self.stages.named_parameters():
            stages.get_parameter(name).requires_grad = parameter.requires_grad
        for name, module in self.stages.named_modules():
            stages.get_submodule(name).training = module.training
        self.stages = stages
        self.init_args = args
        self.set_grad_checkpointing(self.grad_checkpointing)

    def load_pretrained(self, path: str | Path) -> None:
        """Load a file of the authors, of Swin or of this project; one line says what was changed for this model.

        timm calls it for ``pretrained=True``: these weights are not under the model's own names.

        Raises:
            UserError: the file cannot be read or is of another model.
        """
        from .checkpoint import load_pretrained, read_for

        try:
            changed = load_pretrained(self, read_for(self, path)).summary()
        except UserError as error:
            raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
        if changed:
            LOG.warning("%s: %s", Path(path).name, changed)
