"""Images inside one zip file, with labels from Swin's `<name>_map.txt` or from the folders in the archive.

The central directory is read once; images are then read by offset, so a worker holds no list of members.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from data.decode import Encoded, open_image
from data.errors import CorruptImageError, DataError
from data.readers.files import Files
from data.readers.folder import is_image_name
from data.readers.table import read_map
from data.records import ImageList, check_name, pack, parent_class

_LOCAL_HEADER = 30
MAX_FILE_BYTES = 1 << 28  # no photograph of a training set is larger; what declares more is a bomb


def map_file(path: Path) -> Path:
    """Return where Swin puts the labels of `train.zip`: `train_map.txt`."""
    return path.with_name(f"{path.stem}_map.txt")


def scan_zip(path: Path) -> ImageList:
    """List the images of a zip file. Raises DataError for a broken archive or names that lead outside."""
    if not path.is_file():
        raise DataError(f"there is no zip file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if is_image_name(entry.filename)]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable zip file ({error})") from error
    if not members:
        raise DataError(f"{path} has no images")
    for entry in members:
        _check_member(path, entry)
    if map_file(path).is_file():
        members, labels, classes = _labels_of_map(path, members)
    else:
        members.sort(key=lambda entry: entry.filename)
        folders = [parent_class(entry.filename, path) for entry in members]
        classes = sorted(set(folders))
        number = {name: label for label, name in enumerate(classes)}
        labels = [number[name] for name in folders]
    return pack(
        [entry.filename for entry in members],
        labels,
        classes,
        offset=np.array([entry.header_offset for entry in members], dtype=np.int64),
        packed=np.array([entry.compress_size for entry in members], dtype=np.int64),
        size=np.array([entry.file_size for entry in members], dtype=np.int64),
        crc=np.array([entry.CRC for entry in members], dtype=np.uint32),
        method=np.array([entry.compress_type for entry in members], dtype=np.uint8),
    )


def _check_member(path: Path, entry: zipfile.ZipInfo) -> None:
    check_name(entry.filename, path)
    if entry.file_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {entry.filename} claims {entry.file_size} bytes, refused as a decompression bomb")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {entry.filename} is encrypted or not packed by 'store' or 'deflate'")
    if entry.external_attr >> 28 == 0xA:
        raise DataError(f"{path}: {entry.filename} is a symbolic link")


def _labels_of_map(path: Path, members: list[zipfile.ZipInfo]) -> tuple[list[zipfile.ZipInfo], list[int], list[str]]:
    names, labels, classes = read_map(map_file(path))
    known = {entry.filename: entry for entry in members}
    for name in names:
        if name not in known:
            raise DataError(f"{map_file(path)} lists {name!r}, which is not in {path.name}")
    return [known[name] for name in names], labels, classes


class ZipReader:
    """Reads images of a zip file by offset."""

    def __init__(self, path: Path, max_pixels: int, records: ImageList) -> None:
        self.records = records
        self.max_pixels = max_pixels
        self._files = Files([path])

    def open(self, index: int) -> Encoded:
        """Return the image, not yet decoded. Raises CorruptImageError naming the archive and the member."""
        name = f"{self._files.paths[0]}:{self.records.name(index)}"
        return open_image(self._bytes(index, name), name, self.max_pixels)

    def _bytes(self, index: int, name: str) -> bytes:
        extra = self.records.extra
        offset, size = int(extra["offset"][index]), int(extra["size"][index])
        head = self._files.read(0, offset, _LOCAL_HEADER)
        if head[:4] != b"PK\x03\x04":
            raise CorruptImageError(f"{name}: the archive is damaged or newer than its index")
        start = offset + _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = self._files.read(0, start, int(extra["packed"][index]))
        if extra["method"][index] == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)  # never more than the list says
            except zlib.error as error:
                raise CorruptImageError(f"{name}: cannot be unpacked ({error})") from error
        if len(data) != size or zlib.crc32(data) != int(extra["crc"][index]):
            raise CorruptImageError(f"{name}: the content does not fit its checksum")
        return data
