"""Images in zip files and tar shards."""

import os
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from data.classes import numbers_of
from data.decode import Encoded, open_image
from data.errors import CorruptImageError
from data.image_list import ImageList, check_name, check_once, folder_classes, is_hidden, pack
from data.readers.csv_list import Listing, as_numbers, read_map
from data.readers.folder import is_image_name
from models.errors import UserError


class Files:
    """Opens each file at the first read in each process, so neither fork nor spawn shares a position."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._open: dict[tuple[int, int], int] = {}

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of file `number` from `offset` on (fewer where the file ends before)."""
        key = os.getpid(), number
        if key not in self._open:
            self._open[key] = os.open(self.paths[number], os.O_RDONLY)
        return os.pread(self._open[key], size, offset)

    def __getstate__(self) -> dict:
        return {"paths": self.paths, "_open": {}}

    def __del__(self) -> None:
        for (process, _), descriptor in self._open.items():
            if process == os.getpid():
                os.close(descriptor)


_LOCAL_HEADER = 30
MAX_CLASS_BYTES = 1000  # of a .cls file: a number or the name of a class
MAX_FILE_BYTES = 1 << 28  # no photograph of a training set is larger; what declares more is a bomb


def map_file(path: Path) -> Path:
    """Return where Swin puts the labels of `train.zip`: `train_map.txt`."""
    return path.with_name(f"{path.stem}_map.txt")


def scan_zip(path: Path) -> ImageList:
    """List the images of a zip file. Raises UserError for a broken archive or names that lead outside."""
    if not path.is_file():
        raise UserError(f"there is no zip file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                entry for entry in archive.infolist() if is_image_name(entry.filename) and not is_hidden(entry.filename)
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not a readable zip file ({error})") from error
    if not members:
        raise UserError(f"{path} has no images")
    for entry in members:
        _check_member(path, entry)
    check_once([entry.filename for entry in members], path)
    if map_file(path).is_file():
        found = read_map(map_file(path))
        members = _members_of(found.names, path, members)
    else:
        members.sort(key=lambda entry: entry.filename)
        names = [entry.filename for entry in members]
        found = Listing(names, *numbers_of(folder_classes(names, path)), False)
    return pack(
        *found[:3],
        numbered=found.numbered,
        offset=np.array([entry.header_offset for entry in members], dtype=np.int64),
        packed=np.array([entry.compress_size for entry in members], dtype=np.int64),
        size=np.array([entry.file_size for entry in members], dtype=np.int64),
        crc=np.array([entry.CRC for entry in members], dtype=np.uint32),
        method=np.array([entry.compress_type for entry in members], dtype=np.uint8),
    )


def _check_member(path: Path, entry: zipfile.ZipInfo) -> None:
    check_name(entry.filename, path)
    if entry.file_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: {entry.filename} claims {entry.file_size} bytes, refused as a decompression bomb")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {entry.filename} is encrypted or not packed by 'store' or 'deflate'")
    if entry.external_attr >> 28 == 0xA:
        raise UserError(f"{path}: {entry.filename} is a symbolic link")


def _members_of(names: list[str], path: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    known = {entry.filename: entry for entry in members}
    for name in names:
        if name not in known:
            raise UserError(f"{map_file(path)} lists {name!r}, which is not in {path.name}")
    if len(names) < len(members):
        raise UserError(f"{map_file(path)} lists {len(names)} of the {len(members)} images in {path.name}")
    return [known[name] for name in names]


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
        own_name = self.records.name(index)
        head = self._files.read(0, offset, _LOCAL_HEADER + len(own_name.encode()))
        if head[:4] != b"PK\x03\x04" or not _is_name_in(head, own_name):
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


def _is_name_in(head: bytes, name: str) -> bool:
    """Whether a local header, with the bytes after it, is of this name: an index knows an archive by its size alone.

    Letters beyond ASCII may stand there in another encoding and are not compared.
    """
    if not name.isascii():
        return True
    return int.from_bytes(head[26:28], "little") == len(name) and head[_LOCAL_HEADER:] == name.encode()


def list_shards(pattern: Path) -> list[Path]:
    """Return the shards of a pattern such as `train-*.tar`, sorted. Raises UserError where there are none."""
    shards = sorted(pattern.parent.glob(pattern.name))
    if not shards:
        raise UserError(f"there are no tar shards {pattern}")
    return shards


def scan_tar(shards: list[Path]) -> ImageList:
    """List the images of all shards. Classes are the numbers in `.cls` files, or else the folders.

    Raises UserError for links, names that lead outside, and archives that are broken, cut off or go on after their end.
    """
    names: list[str] = []
    keys: list[str | None] = []
    where: list[tuple[int, int, int]] = []
    for number, path in enumerate(shards):
        for name, key, offset, size in _scan_shard(path):
            names.append(name)
            keys.append(key)
            where.append((number, offset, size))
    if not names:
        raise UserError(f"{shards[0]} and {len(shards) - 1} more shards have no images")
    labels, classes, numbered = _tar_labels(names, keys, shards[0])
    table = np.array(where, dtype=np.int64)
    return pack(
        names,
        labels,
        classes,
        numbered=numbered,
        shard=table[:, 0].astype(np.int32),
        offset=np.ascontiguousarray(table[:, 1]),
        size=np.ascontiguousarray(table[:, 2]),
    )


def _tar_labels(names: list[str], keys: list[str | None], source: Path) -> tuple[list[int], list[str], bool]:
    given = [key for key in keys if key is not None]
    if not given:
        return *numbers_of(folder_classes(names, source)), False
    if len(given) < len(keys):
        name = names[keys.index(None)]
        raise UserError(f"{source} and its other shards: {name!r} has no .cls file, other images have one")
    labels = as_numbers(given, f"{source} and its other shards")
    if labels is None:
        return *numbers_of(given), False
    return labels, [str(number) for number in range(max(labels) + 1)], True


def _scan_shard(path: Path) -> list[tuple[str, str | None, int, int]]:
    """Return (name, content of its .cls file, offset, size) of the images of one shard."""
    images: list[tuple[str, int, int]] = []
    keys: dict[str, str] = {}
    last = "its start"
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                last = member.name
                if member.isdir() or is_hidden(member.name):
                    continue
                _check_tar_member(path, member)
                if member.name.endswith(".cls"):
                    keys[_stem(member.name)] = _class_in(archive, member, path)
                elif is_image_name(member.name):
                    images.append((member.name, member.offset_data, member.size))
            end = archive.offset
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable uncompressed tar file ({error})") from error
    _check_end(path, end, last)
    check_once([name for name, _, _ in images], path)
    found = [(name, keys.get(_stem(name)), at, size) for name, at, size in images]
    if keys and all(key is None for _, key, _, _ in found):
        raise UserError(f"{path}: none of its {len(keys)} .cls files, such as {next(iter(keys))}.cls, is of an image")
    return found


def _stem(name: str) -> str:
    """What an image and its .cls file have in common, with or without the `./` that tar may put before it."""
    return str(PurePosixPath(name).with_suffix(""))


def _class_in(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    content = archive.extractfile(member)
    if content is None or member.size > MAX_CLASS_BYTES:
        raise UserError(f"{path}: {member.name} has {member.size} bytes, too many for the name of a class")
    return content.read().decode().strip()


def _check_end(path: Path, offset: int, last: str) -> None:
    """Where reading has stopped there are blocks of zeros to the end of the file, as an archive ends."""
    with path.open("rb") as file:
        file.seek(offset)
        zeros = 0
        while chunk := file.read(1 << 20):
            if chunk.strip(b"\0"):
                raise UserError(
                    f"{path}: what stands after {last!r}, at byte {offset}, is neither a member nor the archive's end: "
                    f"damaged, or two archives in one"
                )
            zeros += len(chunk)
    if zeros < 2 * tarfile.BLOCKSIZE:
        raise UserError(f"{path}: cut off after {last!r}, at byte {offset}: the archive has no end")


def _check_tar_member(path: Path, member: tarfile.TarInfo) -> None:
    check_name(member.name, path)
    if not member.isreg():
        raise UserError(f"{path}: {member.name} is a link or a device, not a file")
    if member.size > MAX_FILE_BYTES:
        raise UserError(f"{path}: {member.name} claims {member.size} bytes, refused as a decompression bomb")


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
        found = self._files.read(shard, offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + size)
        if len(found) != tarfile.BLOCKSIZE + size:
            raise CorruptImageError(f"{name}: the shard is cut off")
        if not _is_header_of(found[: tarfile.BLOCKSIZE], self.records.name(index), size):
            raise CorruptImageError(f"{name}: the shard is damaged or newer than its index")
        return open_image(found[tarfile.BLOCKSIZE :], name, self.max_pixels)


def _is_header_of(block: bytes, name: str, size: int) -> bool:
    """Whether the block before a member's data is its header: an index knows a shard by its size alone.

    Long names, and letters beyond ASCII, may stand in blocks before it and are not compared.
    """
    try:
        header = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    elsewhere = len(name) > tarfile.LENGTH_NAME or not name.isascii()
    return header.size == size and (elsewhere or header.name == name)
