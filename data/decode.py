"""From bytes to a PIL image, with limits: what is too large or broken ends in a CorruptImageError."""

import io
import re
import struct
import warnings

from PIL import Image

from data.errors import CorruptImageError

# What PIL raises for broken files of the formats it knows.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError)


def open_image(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Open an image without decoding its pixels; its size is known afterwards.

    Raises CorruptImageError where the header is broken or the image has more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about large images; the limit here is an error
            image = Image.open(io.BytesIO(data))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name}: not a readable image ({describe(error)})") from error
    check_size(image, name, max_pixels)
    return image


def check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    """Raise CorruptImageError for an image of more than `max_pixels` pixels (a decompression bomb)."""
    width, height = image.size
    if width * height > max_pixels:
        raise CorruptImageError(f"{name}: {width} x {height} pixels are above data.max_pixels {max_pixels}")


def decode(image: Image.Image, name: str, channels: int) -> Image.Image:
    """Decode to RGB (3 channels) or grey (1). Raises CorruptImageError for broken or truncated data."""
    try:
        return image.convert("RGB" if channels == 3 else "L")
    except BROKEN as error:
        raise CorruptImageError(f"{name}: not a readable image ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """Return the error's text on one short line, without the address of a buffer."""
    text = re.sub(r" *<_io.BytesIO[^>]*>", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__
