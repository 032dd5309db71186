"""Images inside uncompressed tar shards, read by offset.

The class of an image is the folder it lies in; in WebDataset shards it is the number in `<key>.cls`.
"""

import tarfile
from pathlib import Path, PurePosixPath

import numpy as np

from data.decode import Encoded, open_image
from data.errors import CorruptImageError, DataError
from data.readers.files import Files
from data.readers.folder import is_image_name
from data.readers.zipped import MAX_FILE_BYTES
from data.records import ImageList, check_name, pack, parent_class


def list_shards(pattern: Path) -> list[Path]:
    """Return the shards of a pattern such as `train-*.tar`, sorted. Raises DataError where there are none."""
    shards = sorted(pattern.parent.glob(pattern.name))
    if not shards:
        raise DataError(f"there are no tar shards {pattern}")
    return shards


def scan_tar(shards: list[Path]) -> ImageList:
    """List the images of all shards. Raises DataError for links, names that lead outside or broken archives."""
    names: list[str] = []
    labels: list[str] = []
    where: list[tuple[int, int, int]] = []
    for number, path in enumerate(shards):
        for name, label, offset, size in _scan_shard(path):
            names.append(name)
            labels.append(label)
            where.append((number, offset, size))
    if not names:
        raise DataError(f"{shards[0]} and {len(shards) - 1} more shards have no images")
    classes = _classes(labels)
    number_of = {name: label for label, name in enumerate(classes)}
    table = np.array(where, dtype=np.int64)
    return pack(
        names,
        [number_of[label] for label in labels],
        classes,
        shard=table[:, 0].astype(np.int32),
        offset=np.ascontiguousarray(table[:, 1]),
        size=np.ascontiguousarray(table[:, 2]),
    )


def _classes(labels: list[str]) -> list[str]:
    if all(label.isdigit() for label in labels):
        return [str(number) for number in range(max(map(int, labels)) + 1)]
    return sorted(set(labels))


def _scan_shard(path: Path) -> list[tuple[str, str, int, int]]:
    """Return (name, class, offset, size) of the images of one shard."""
    images, keys = [], {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                _check_member(path, member)
                if member.name.endswith(".cls"):
                    content = archive.extractfile(member)
                    keys[member.name[:-4]] = content.read(20).decode().strip() if content else ""
                elif is_image_name(member.name):
                    images.append((member.name, member.offset_data, member.size))
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable uncompressed tar file ({error})") from error
    found = []
    for name, offset, size in images:
        label = keys.get(str(PurePosixPath(name).with_suffix("")))
        found.append((name, label if label is not None else parent_class(name, path), offset, size))
    return found


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    check_name(member.name, path)
    if not member.isreg():
        raise DataError(f"{path}: {member.name} is a link or a device, not a file")
    if member.size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {member.name} claims {member.size} bytes, refused as a decompression bomb")


class TarReader:
    """Reads images of tar shards by offset."""

    def __init__(self, shards: list[Path], max_pixels: int, records: ImageList) -> None:
        self.records = records
        self.max_pixels = max_pixels
        self._files = Files(shards)

    def open(self, index: int) -> Encoded:
        """Return the image, not yet decoded. Raises CorruptImageError naming the shard and the member."""
        extra = self.records.extra
        shard, offset, size = (int(extra[key][index]) for key in ("shard", "offset", "size"))
        name = f"{self._files.paths[shard]}:{self.records.name(index)}"
        data = self._files.read(shard, offset, size)
        if len(data) != size:
            raise CorruptImageError(f"{name}: the shard is cut off")
        return open_image(data, name, self.max_pixels)
