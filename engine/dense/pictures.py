"""Pictures as the libraries will read them, looked at without decoding those whose ends are in order."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from models.errors import UserError

ORIENTATION = 0x0112
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what the last bytes of a whole file hold
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def picture_size(file: Path, *, turn: bool) -> tuple[int, int]:
    """(width, height) in pixels, after the EXIF turn where the loader makes it.

    Raises:
        UserError: the file cannot be read as an image, or is cut off.
    """
    try:
        with Image.open(file) as image, file.open("rb") as stream:
            width, height = image.size
            turned = turn and image.getexif().get(ORIENTATION, 1) >= 5
            stream.seek(max(file.stat().st_size - 4096, 0))
            if ENDS.get(image.format or "", b"") not in stream.read():
                image.load()  # cut off, or followed by something else, as a camera's short film: decoding knows
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as an image ({error})") from error
    return (height, width) if turned else (width, height)


def strangers(folder: Path, suffix: str) -> list[Path]:
    """Pictures in a folder that the loader leaves out, since their names end otherwise than in ``suffix``."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.endswith(suffix) and not file.name.startswith(".")
    )
