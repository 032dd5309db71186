"""Decode, crop and resize an image: exactly as timm does it, or faster with small pixel differences.

Exact: PIL decodes the whole image, cuts the box and resizes it with its own kernels.
Fast, for JPEG: libjpeg decodes straight to a tensor, and torch's uint8 kernel (the same filter, on vector
units) resizes. A box of four times the output or more is decoded at 1/4 or 1/8 inside the DCT. Rows below
the box are not decoded. docs/data.md states the pixel differences.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from data.decode import Encoded, decode, describe, first_rows
from data.errors import CorruptImageError

Box = tuple[int, int, int, int]  # top, left, height, width, as in torchvision
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def exact_crop(image: Encoded, box: Box, size: tuple[int, int], mode: str, channels: int) -> Image.Image:
    """Return the box of an image resized to size (height, width). Raises CorruptImageError."""
    top, left, height, width = box
    cut = decode(image, channels).crop((left, top, left + width, top + height))
    return cut.resize(size[::-1], _RESAMPLE[mode])


def fast_crop(image: Encoded, box: Box, size: tuple[int, int], mode: str, channels: int) -> Image.Image:
    """Do the same faster where the image is an ordinary JPEG; others take the exact way."""
    if image.data is None or channels != 3:
        return exact_crop(image, box, size, mode, channels)
    scale = dct_scale(box, size)
    if scale > 1:
        return _scaled_crop(image, box, size, mode, scale)
    top, left, height, width = box
    cut = _decode_tensor(image, top + height)[:, top : top + height, left : left + width]
    cut = cut.unsqueeze(0).contiguous(memory_format=torch.channels_last)  # the order of bytes that PIL wants back
    resized = interpolate(cut, size, mode=mode, antialias=True, align_corners=False)
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy())


def dct_scale(box: Box, size: tuple[int, int]) -> int:
    """Return the larger of 8 and 4 that leaves the box at least as large as the output, else 1.

    Not 2: only PIL decodes at a scale and resizes a box between pixels, and its slower resizing takes what is won.
    """
    for scale in (8, 4):
        if box[2] >= scale * size[0] and box[3] >= scale * size[1]:
            return scale
    return 1


def _decode_tensor(image: Encoded, rows: int) -> Tensor:
    """Return the first rows or more, uint8 (3, H, W)."""
    assert image.data is not None
    try:
        if parent_process() is None:  # not a worker: others may be writing to stderr
            return _to_tensor(bytearray(image.data))
        with silent_stderr():  # where libjpeg would tell of each file that it goes on after the last row wanted
            return _to_tensor(first_rows(image, rows))
    except RuntimeError as error:
        raise CorruptImageError(f"{image.name}: not a readable image ({describe(error)})") from error


def _to_tensor(data: bytearray) -> Tensor:
    return decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.RGB)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """What is written to stderr inside, from C++ too, is lost."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(_nowhere(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


def _scaled_crop(image: Encoded, box: Box, size: tuple[int, int], mode: str, scale: int) -> Image.Image:
    top, left, height, width = box
    reach = 2 * -(-height // size[0])  # rows below the box that the filter looks at
    opened = Encoded(image.name, image.size, data=bytes(first_rows(image, top + height + reach, scale))).open()
    opened.draft(None, (opened.width // scale, opened.height // scale))
    scaled = decode(Encoded(image.name, opened.size, opened=opened), 3)
    region = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
    return scaled.resize(size[::-1], _RESAMPLE[mode], box=region)
