"""Shear and translation for RandAugment: PIL's bicubic result in a third of PIL's time.

Both move each row (or column) by one fractional shift, so a pixel needs 4 neighbours with weights that
the whole row shares, where PIL evaluates 16 for each pixel. Pixels differ from PIL's by at most 1 of 255.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, AugmentOp, RandAugment
from torch import Tensor

_ROUND_UP = 1e-3  # PIL cuts off decimals; float sums that should be whole must not fall below


def shift_lines(image: Image.Image, slope: float, offset: float, axis: str, fill: tuple[int, int, int]) -> Image.Image:
    """Sample an RGB image at x + slope * (y + 0.5) + offset for axis "x", and with x and y exchanged for "y".

    This is PIL's AFFINE transform with BICUBIC; places outside the image become `fill`.
    """
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.int32)
    lines, length = (height, width) if axis == "x" else (width, height)
    shift = slope * (np.arange(lines) + 0.5) + offset
    whole = np.floor(shift)
    strides = (width, 1) if axis == "x" else (1, width)
    taps = _gather(pixels, torch.from_numpy(whole.astype(np.int64)), length, strides)
    moved = _interpolate(taps, torch.from_numpy(_cubic_weights(shift - whole)), length)
    source = torch.from_numpy(np.floor(shift + 0.5).astype(np.int32))[:, None] + torch.arange(length, dtype=torch.int32)
    moved.masked_fill_((source < 0) | (source >= length), fill[0] | fill[1] << 8 | fill[2] << 16)
    if axis == "y":
        moved = moved.t().contiguous()
    return Image.frombytes("RGB", image.size, moved.numpy().tobytes(), "raw", "RGBX")


def _gather(pixels: Tensor, whole: Tensor, length: int, strides: tuple[int, int]) -> Tensor:
    """Return float32 (lines, (length + 3) * 4): each line moved by whole pixels, its border repeated."""
    along = (whole[:, None] + torch.arange(-1, length + 2)).clamp_(0, length - 1)
    index = along.mul_(strides[1]).add_(torch.arange(len(whole))[:, None] * strides[0])
    return pixels.index_select(0, index.view(-1)).view(torch.uint8).view(len(whole), -1).float()


def _interpolate(taps: Tensor, weights: Tensor, length: int) -> Tensor:
    """Weigh 4 neighbours along each line; returns int32 (lines, length) of packed pixels."""
    size = length * 4
    moved = taps[:, :size] * weights[0]
    for number in (1, 2, 3):
        moved.addcmul_(taps[:, 4 * number : 4 * number + size], weights[number])
    return moved.add_(_ROUND_UP).clamp_(0, 255).to(torch.uint8).view(torch.int32)


def _cubic_weights(d: np.ndarray) -> np.ndarray:
    """Return float32 (4, lines, 1): Keys' cubic (a = -1, as in PIL's transform) at the fraction d."""
    weights = [
        -d + 2 * d**2 - d**3,
        1 - 2 * d**2 + d**3,
        d + d**2 - d**3,
        -(d**2) + d**3,
    ]
    return np.stack(weights).astype(np.float32)[:, :, None]


def _op(name: str, axis: str, shear: bool) -> Callable[..., Image.Image]:
    original: Callable[..., Image.Image] = NAME_TO_OP[name]  # type: ignore[assignment]

    def moved(image: Image.Image, amount: float, **kwargs) -> Image.Image:
        fill, resample = kwargs.get("fillcolor"), kwargs.get("resample")
        if image.mode != "RGB" or resample != Image.Resampling.BICUBIC or not isinstance(fill, tuple):
            return original(image, amount, **kwargs)
        size = image.size[0 if axis == "x" else 1]
        slope, offset = (amount, 0.0) if shear else (0.0, amount * size)
        return shift_lines(image, slope, offset, axis, fill)

    return moved


_FAST = {
    "ShearX": _op("ShearX", "x", True),
    "ShearY": _op("ShearY", "y", True),
    "TranslateXRel": _op("TranslateXRel", "x", False),
    "TranslateYRel": _op("TranslateYRel", "y", False),
}


def speed_up(operations: list) -> None:
    """Exchange the functions of RandAugment's shears and translations for the fast ones, in place."""
    for operation in operations:
        if isinstance(operation, RandAugment):
            for op in operation.ops:
                assert isinstance(op, AugmentOp)
                op.aug_fn = _FAST.get(op.name, op.aug_fn)
