"""Decode, crop and resize an image: exactly as timm does it, or faster with small pixel differences.

Exact: PIL decodes the whole image, cuts the box and resizes it with its own kernels.
Fast, for JPEG: libjpeg decodes straight to a tensor, and torch's uint8 kernel (the same filter, on vector
units) resizes. A box of twice the output or more is decoded at 1/2, 1/4 or 1/8 inside the DCT.
docs/data.md states the pixel differences.
"""

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from data.decode import Encoded, decode, describe
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
    cut = _decode_tensor(image.data, image.name)[:, top : top + height, left : left + width]
    cut = cut.unsqueeze(0).contiguous(memory_format=torch.channels_last)  # the order of bytes that PIL wants back
    resized = interpolate(cut, size, mode=mode, antialias=True, align_corners=False)
    return Image.fromarray(resized[0].permute(1, 2, 0).numpy())


def dct_scale(box: Box, size: tuple[int, int]) -> int:
    """Return the largest of 8, 4, 2 that leaves the box at least as large as the output, else 1."""
    for scale in (8, 4, 2):
        if box[2] >= scale * size[0] and box[3] >= scale * size[1]:
            return scale
    return 1


def _decode_tensor(data: bytes, name: str) -> Tensor:
    """Return uint8 (3, H, W)."""
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise CorruptImageError(f"{name}: not a readable image ({describe(error)})") from error


def _scaled_crop(image: Encoded, box: Box, size: tuple[int, int], mode: str, scale: int) -> Image.Image:
    full_width, full_height = image.size
    opened = image.open()
    opened.draft(None, (full_width // scale, full_height // scale))
    scaled = decode(Encoded(image.name, opened.size, opened=opened), 3)
    x, y = scaled.width / full_width, scaled.height / full_height
    top, left, height, width = box
    region = (left * x, top * y, min((left + width) * x, scaled.width), min((top + height) * y, scaled.height))
    return scaled.resize(size[::-1], _RESAMPLE[mode], box=region)
