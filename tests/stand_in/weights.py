"""Random weights in the form of the released files: the authors' and Swin's names, mmdet 2's and mmseg 0's around them.

The names of necks and heads are written down here from those libraries' modules, not taken from what is installed.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.released import Release
from models.zoo import SIZES
from tests.models.oracle import Maker, make_state

QUIET = ("attn2conv.bn2.weight", "attn2conv.conv.conv2.weight", "mlp.fc2.weight", "attn.proj.weight")
"""What ends a branch, and what generates kernels: small, so that values stay finite through all blocks."""


def save(release: Release, folder: Path, seed: int = 0) -> Path:
    """Write a file as the release's, under its name."""
    path = folder / release.file
    torch.save(content(release, seed), path)
    return path


def content(release: Release, seed: int = 0) -> dict[str, Any]:
    """What such a file holds: ``model``, or ``state_dict`` with the meta data of a training."""
    family, size = release.model.rsplit("_", 1)
    width, depths, heads = (SIZES[size][key] for key in ("embed_dim", "depths", "num_heads"))
    state = make_state(family, width, depths, classes=1000, heads=heads, img_size=224, seed=seed)
    state = {key: value * (0.1 if key.endswith(QUIET) else 1.0) for key, value in state.items()}
    if release.task == "classification":
        return {"model": state}
    make = Maker(seed + 1)
    make.state = {f"backbone.{key}": value for key, value in state.items() if key.split(".")[0] not in ("norm", "head")}
    make.state = {key: value for key, value in make.state.items() if not key.endswith("attn_mask")}  # not in dense Swin
    widths = [width * 2**stage for stage in range(4)]
    for stage, channels in enumerate(widths):
        make.norm(f"backbone.norm{stage}", channels, batch=family != "swin")
    add = _detectors_rest if release.task == "detection" else _segmentors_rest
    add(make, widths, release.num_classes)
    return {"state_dict": make.state, "meta": {"epoch": 36, "iter": 160000, "mmdet_version": "2.11.0"}}


def _conv(make: Maker, name: str, out_dim: int, in_dim: int, side: int, *, norm: bool = False) -> None:
    """A ConvModule: ``conv`` with a bias, or without one and ``bn`` after it."""
    make.add(f"{name}.conv.weight", out_dim, in_dim, side, side, scale=(in_dim * side**2) ** -0.5)
    if norm:
        make.norm(f"{name}.bn", out_dim, batch=True)
    else:
        make.add(f"{name}.conv.bias", out_dim, scale=0.1)


def _plain(make: Maker, name: str, *shape: int, bias: int) -> None:
    """A layer of its own, with weights as small as its width asks for."""
    make.add(f"{name}.weight", *shape, scale=float(Tensor([*shape[1:]]).prod()) ** -0.5)
    make.add(f"{name}.bias", bias, scale=2.0 if name.endswith("fc_cls") else 0.1)  # some boxes pass the threshold


def _detectors_rest(make: Maker, widths: list[int], classes: int) -> None:
    """Cascade Mask R-CNN as Swin's set-up has it: FPN, RPN, three 4conv1fc box heads, three mask heads."""
    for level, width in enumerate(widths):
        _conv(make, f"neck.lateral_convs.{level}", 256, width, 1)
        _conv(make, f"neck.fpn_convs.{level}", 256, 256, 3)
    _plain(make, "rpn_head.rpn_conv", 256, 256, 3, 3, bias=256)
    _plain(make, "rpn_head.rpn_cls", 3, 256, 1, 1, bias=3)
    _plain(make, "rpn_head.rpn_reg", 12, 256, 1, 1, bias=12)
    for stage in range(3):
        box, mask = f"roi_head.bbox_head.{stage}", f"roi_head.mask_head.{stage}"
        for number in range(4):
            _conv(make, f"{box}.shared_convs.{number}", 256, 256, 3, norm=True)
            _conv(make, f"{mask}.convs.{number}", 256, 256, 3)
        _plain(make, f"{box}.shared_fcs.0", 1024, 256 * 7 * 7, bias=1024)
        _plain(make, f"{box}.fc_cls", classes + 1, 1024, bias=classes + 1)
        _plain(make, f"{box}.fc_reg", 4 * classes, 1024, bias=4 * classes)
        _plain(make, f"{mask}.upsample", 256, 256, 2, 2, bias=256)
        _plain(make, f"{mask}.conv_logits", classes, 256, 1, 1, bias=classes)


def _segmentors_rest(make: Maker, widths: list[int], classes: int) -> None:
    """UPerNet of 512 channels, and the auxiliary FCN head on the third stage."""
    for number in range(4):
        _conv(make, f"decode_head.psp_modules.{number}.1", 512, widths[3], 1, norm=True)
    _conv(make, "decode_head.bottleneck", 512, widths[3] + 4 * 512, 3, norm=True)
    for level in range(3):
        _conv(make, f"decode_head.lateral_convs.{level}", 512, widths[level], 1, norm=True)
        _conv(make, f"decode_head.fpn_convs.{level}", 512, 512, 3, norm=True)
    _conv(make, "decode_head.fpn_bottleneck", 512, 4 * 512, 3, norm=True)
    _plain(make, "decode_head.conv_seg", classes, 512, 1, 1, bias=classes)
    _conv(make, "auxiliary_head.convs.0", 256, widths[2], 3, norm=True)
    _plain(make, "auxiliary_head.conv_seg", classes, 256, 1, 1, bias=classes)
