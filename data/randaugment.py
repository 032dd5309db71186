"""Shear and translation for RandAugment: PIL's bicubic result in a third of PIL's time.

Both move each row (or column) by one fractional shift, so a pixel needs 4 neighbours with weights that
the whole row shares, where PIL evaluates 16 for each pixel. Pixels differ from PIL's by at most 1 of 255.
"""

from collections.abc import Callable
from copy import copy
from functools import cache

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, RandAugment
from torch import Tensor

_ROUND_UP = 1e-3  # PIL cuts off decimals; float sums that should be whole must not fall below


def shift_lines(image: Image.Image, slope: float, offset: float, axis: str, fill: tuple[int, int, int]) -> Image.Image:
    """Sample an RGB image at x + slope * (y + 0.5) + offset for axis "x", and with x and y exchanged for "y".

    This is PIL's AFFINE transform with BICUBIC; places outside the image become `fill`.
    """
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.int32)
    lines, length, strides = (height, width, (width, 1)) if axis == "x" else (width, height, (1, width))
    shift = slope * (np.arange(lines) + 0.5) + offset
    whole = np.floor(shift)
    index = _neighbours(whole.astype(np.int32), lines, length, strides)
    taps = pixels.index_select(0, torch.from_numpy(index.ravel())).view(torch.uint8).view(lines, -1).float()
    moved = _interpolate(taps, torch.from_numpy(_cubic_weights(shift - whole)), length).numpy()
    source = np.floor(shift + 0.5).astype(np.int32)[:, None] + _counting(0, length)
    outside = source.view(np.uint32) >= length  # negative places are large as unsigned numbers
    np.copyto(moved, fill[0] | fill[1] << 8 | fill[2] << 16, where=outside)
    return Image.frombytes("RGB", image.size, (moved if axis == "x" else moved.T).tobytes(), "raw", "RGBX")


def _neighbours(whole: np.ndarray, lines: int, length: int, strides: tuple[int, int]) -> np.ndarray:
    """Return int32 (lines, length + 3): which pixels each line needs when moved by whole pixels, borders repeated."""
    along = whole[:, None] + _counting(-1, length + 3)
    np.clip(along, 0, length - 1, out=along)
    if strides[1] != 1:
        along *= strides[1]
    along += (_counting(0, lines) * strides[0])[:, None]
    return along


@cache
def _counting(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int32)


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


class FastRandAugment:
    """timm's RandAugment with the fast operations. It draws the same numbers, without the calls around them."""

    def __init__(self, slow: RandAugment) -> None:
        self.operations = [copy(operation) for operation in slow.ops]
        for operation in self.operations:
            operation.aug_fn = _FAST.get(operation.name, operation.aug_fn)
        self.layers = slow.num_layers

    def __call__(self, image: Image.Image) -> Image.Image:
        """Apply as many operations as there are layers, drawn with replacement."""
        for number in np.random.randint(len(self.operations), size=self.layers):
            image = self.operations[number](image)
        return image


def speed_up(operation: Callable) -> Callable:
    """Return a faster form of a transform: of a RandAugment whose operations are equally likely; others stay."""
    if isinstance(operation, RandAugment) and operation.choice_weights is None:
        return FastRandAugment(operation)
    return operation
