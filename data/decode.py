"""Image files in memory: their size at once, their pixels later, and limits on what is too large or broken."""

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from data.errors import CorruptImageError

# What PIL raises for broken files of the formats it knows.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError)
_ALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length
_BASELINE = 0xC0
_END = b"\xff\xd9"
_FRAMES = {_BASELINE, 0xC1, 0xC2}  # baseline, extended and progressive frames with Huffman codes


class Frame(NamedTuple):
    """What the header of a JPEG says: (width, height), and where it says so."""

    size: tuple[int, int]
    place: int


@dataclass
class Encoded:
    """An image whose size (width, height) is known and whose pixels are not decoded yet.

    data, frame: the file and its header, where it is an ordinary JPEG, which the fast decoder takes. Otherwise
    `opened` is PIL's, or `pixels`, uint8 (C, H, W), are there already.
    """

    name: str
    size: tuple[int, int]
    data: bytes | None = None
    frame: Frame | None = None
    opened: Image.Image | None = None
    pixels: np.ndarray | None = None

    def open(self) -> Image.Image:
        """Return the image as PIL opens it. Raises CorruptImageError for a broken header."""
        if self.opened is not None:
            return self.opened
        if self.pixels is not None:
            return to_image(self.pixels)
        assert self.data is not None
        return _open(self.data, self.name)


def open_image(data: bytes, name: str, max_pixels: int) -> Encoded:
    """Find the size of an image file.

    Raises CorruptImageError where the header is broken or the image has more than `max_pixels` pixels.
    """
    frame = jpeg_frame(data)
    if frame is not None:
        image = Encoded(name, frame.size, data=data, frame=frame)
    else:
        opened = _open(data, name)
        image = Encoded(name, opened.size, opened=opened)
    if image.size[0] * image.size[1] > max_pixels:
        width, height = image.size
        raise CorruptImageError(f"{name}: {width} x {height} pixels are above data.max_pixels {max_pixels}")
    return image


def decode(image: Encoded, channels: int) -> Image.Image:
    """Decode to RGB (3 channels) or grey (1). Raises CorruptImageError for broken or truncated data."""
    try:
        return eight_bits(image.open(), image.name).convert("RGB" if channels == 3 else "L")
    except CorruptImageError:
        raise  # says what is wrong already
    except BROKEN as error:
        raise CorruptImageError(f"{image.name}: not a readable image ({describe(error)})") from error


def pixels_of(image: Encoded, channels: int) -> np.ndarray:
    """Decode to uint8 (C, H, W), which is not to be changed. Raises CorruptImageError as :func:`decode`."""
    return to_array(decode(image, channels)) if image.pixels is None else image.pixels


def to_array(image: Image.Image) -> np.ndarray:
    """Return uint8 (C, H, W), a view of PIL's bytes packed line by line: nearly planes, so it is quickly copied."""
    if image.mode == "L":
        return np.asarray(image)[None]
    width, height = image.size
    return np.frombuffer(image.tobytes("raw", "RGB;L"), dtype=np.uint8).reshape(height, 3, width).transpose(1, 0, 2)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return uint8 (C, H, W) as PIL's image, RGB or grey."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale 16 bits of grey to 8, which PIL's own conversion would cut off at 255.

    PIL opens a PGM of more than 8 bits as 32-bit integers that it has scaled to 16 bits.

    Raises CorruptImageError for floats and other 32-bit integers: nothing says which values are black and white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("F", "I"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise CorruptImageError(f"{name}: its pixels are {kind}, whose scale is unknown; save it with 8 or 16 bits")
    return image


def read_upright(path: Path) -> Image.Image:
    """An image file as RGB, turned as its EXIF says: for pictures that are looked at one by one.

    Raises CorruptImageError naming the file.
    """
    try:
        return eight_bits(ImageOps.exif_transpose(Image.open(path)), str(path)).convert("RGB")
    except CorruptImageError:
        raise
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{path}: not a readable image ({describe(error)})") from error


_TURNED = range(2, 9)
_ORIENTATION = 0x0112


def is_turned(image: Encoded) -> bool:
    """Whether a picture's EXIF says that it is to be turned or mirrored before it is looked at.

    Raises CorruptImageError for a broken file.
    """
    if image.data is not None and b"Exif\0\0" not in image.data[: 1 << 16]:
        return False
    try:
        return image.open().getexif().get(_ORIENTATION) in _TURNED
    except CorruptImageError:
        raise
    except BROKEN as error:
        raise CorruptImageError(f"{image.name}: its EXIF cannot be read ({describe(error)})") from error


def upright(image: Encoded) -> Encoded:
    """Turn a picture as its EXIF says. Raises CorruptImageError for a broken file."""
    if not is_turned(image):
        return image
    try:
        turned = ImageOps.exif_transpose(image.open())
    except BROKEN as error:
        raise CorruptImageError(f"{image.name}: not a readable image ({describe(error)})") from error
    return Encoded(image.name, turned.size, opened=turned)


def jpeg_frame(data: bytes) -> Frame | None:
    """Find the header of an ordinary JPEG, 8 bits in 1 or 3 components; None for anything else.

    Opening with PIL would parse all tables and metadata, which takes a tenth of the time of decoding.
    """
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            ordinary = precision == 8 and components in (1, 3) and width and height
            return Frame((width, height), place) if ordinary else None
        if marker == 0xFF or marker in _ALONE:  # padding
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def first_rows(image: Encoded, rows: int, scale: int = 1) -> bytearray:
    """Return a JPEG whose header claims only the rows that are wanted, so that a decoder stops after them.

    Upsampling looks at the next row of colours, which may stand for two rows of pixels, of `scale` rows each; so a few
    more are claimed. All rows stay where the file is progressive (each pass has all rows) or has no end: what was cut
    off must be noticed.
    """
    assert image.data is not None and image.frame is not None
    data, place = bytearray(image.data), image.frame.place
    claimed = rows + 4 * scale
    if claimed < image.size[1] and data[place + 1] == _BASELINE and data.endswith(_END):
        struct.pack_into(">H", data, place + 5, claimed)
    return data


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name}: not a readable image ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """Return the error's text on one short line, without the address of a buffer."""
    text = re.sub(r" *<_io.BytesIO[^>]*>", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__
