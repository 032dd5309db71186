"""ImageFolder: one folder for each class, classes in the order of their names."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.classes import sort_classes
from data.decode import Encoded, describe, open_image
from data.errors import CorruptImageError
from data.image_list import ImageList, is_hidden, pack
from models.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def is_image_name(name: str) -> bool:
    """Whether a file name has an extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders in label order. Raises UserError where there are none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: an image folder needs {root}/<class>/<image>")
    classes = sort_classes(entry.name for entry in _entries(str(root)) if entry.is_dir())
    if not classes:
        raise UserError(f"{root} has no class folders: an image folder needs {root}/<class>/<image>")
    return classes


def scan_folder(root: Path) -> ImageList:
    """List all images below the class folders, sorted.

    Raises UserError where there are none, a folder cannot be read, or a link leads round in a circle.
    """
    classes = list_classes(root)
    above = (_identity(str(root)),)
    with ThreadPoolExecutor(16) as pool:  # reading directories waits for the disk, not for the CPU
        per_class = list(pool.map(lambda name: sorted(_images_below(f"{root}/{name}", name, above)), classes))
    if not any(per_class):
        raise UserError(f"{root} has no images ({', '.join(EXTENSIONS)}) below its {len(classes)} class folders")
    names = [name for files in per_class for name in files]
    labels = [label for label, files in enumerate(per_class) for _ in files]
    return pack(names, labels, classes)


def count_images(root: Path) -> int:
    """Return how many images lie below the class folders now. Raises UserError as :func:`scan_folder`."""
    above = (_identity(str(root)),)
    with ThreadPoolExecutor(16) as pool:
        return sum(
            pool.map(lambda name: sum(1 for _ in _images_below(f"{root}/{name}", "", above)), list_classes(root))
        )


def _images_below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The images of a folder and of those inside it; `above` are the folders that it lies in."""
    own = _identity(folder)
    if own in above:
        raise UserError(f"{folder}: a link to a folder that it lies in, so its images would be there again and again")
    for entry in _entries(folder):
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _images_below(entry.path, name, (*above, own))
        elif is_image_name(entry.name):
            yield name


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, without side files. Raises UserError where it cannot be read or a link leads nowhere."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    for entry in found:
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110  a Path for each file costs more
            raise UserError(f"{entry.path}: a link to nothing")
    return found


def _identity(folder: str) -> tuple[int, int]:
    try:
        about = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    return about.st_dev, about.st_ino


class FolderReader:
    """Images as single files below `root`."""

    def __init__(self, root: Path, max_pixels: int, records: ImageList) -> None:
        self.root = root
        self.max_pixels = max_pixels
        self.records = records

    def open(self, index: int) -> Encoded:
        """Return the image, not yet decoded. Raises CorruptImageError naming the file."""
        path = f"{self.root}/{self.records.name(index)}"
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a Path costs more than the reading
                data = file.read()
        except OSError as error:
            raise CorruptImageError(f"{path}: cannot be read ({describe(error)})") from error
        return open_image(data, path, self.max_pixels)
