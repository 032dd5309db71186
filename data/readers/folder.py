"""ImageFolder: one folder for each class, classes in sorted order."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.decode import Encoded, describe, open_image
from data.errors import CorruptImageError
from data.image_list import ImageList, pack
from models.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def is_image_name(name: str) -> bool:
    """Whether a file name has an extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders, sorted. Raises UserError where there are none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: an image folder needs {root}/<class>/<image>")
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{root} has no class folders: an image folder needs {root}/<class>/<image>")
    return classes


def scan_folder(root: Path) -> ImageList:
    """List all images below the class folders, sorted. Raises UserError where there are none."""
    classes = list_classes(root)
    with ThreadPoolExecutor(16) as pool:  # reading directories waits for the disk, not for the CPU
        per_class = list(pool.map(lambda name: _images_below(root / name, name), classes))
    if not any(per_class):
        raise UserError(f"{root} has no images ({', '.join(EXTENSIONS)}) below its {len(classes)} class folders")
    names = [name for files in per_class for name in files]
    labels = [label for label, files in enumerate(per_class) for _ in files]
    return pack(names, labels, classes)


def _images_below(folder: Path, prefix: str) -> list[str]:
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                found += _images_below(Path(entry.path), name)
            elif is_image_name(entry.name):
                found.append(name)
    return sorted(found)


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
