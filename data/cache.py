"""Decoded pictures in memory: each is read and decoded once, then all workers of a process share its bytes."""

import os
from pathlib import Path

import numpy as np
from torch import multiprocessing

from data.decode import Encoded, decode, to_array, upright
from data.errors import CorruptImageError
from data.readers import Reader
from models.errors import UserError

_KEPT_FREE = 0.1  # of the memory that is free now, for all else
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class CachedReader:
    """A reader whose pictures lie decoded, uint8 (C, H, W), in one block that workers share by fork or spawn.

    What cannot be read stays so: its error is raised again at each `open`.
    """

    def __init__(self, reader: Reader, channels: int, *, exif: bool) -> None:
        """Decode all pictures. Raises UserError with the numbers where they do not fit into memory."""
        self.records = reader.records
        self._errors: dict[int, str] = {}
        pixels = [self._measure(reader, index) for index in range(len(self.records))]
        self._ends = np.cumsum(np.array(pixels, dtype=np.int64) * channels)
        self._sizes = np.zeros((len(pixels), 3), dtype=np.int32)
        _check_room(int(self._ends[-1]), len(pixels))
        self._block = multiprocessing.RawArray("B", int(self._ends[-1]) or 1)
        for index in range(len(pixels)):
            if index not in self._errors:
                self._fill(reader, index, channels, exif)

    def open(self, index: int) -> Encoded:
        """Return the picture; nothing is read. Raises CorruptImageError as the reader or the decoder did."""
        if index in self._errors:
            raise CorruptImageError(self._errors[index])
        pixels = self._place(index)
        return Encoded(self.records.name(index), pixels.shape[:0:-1], pixels=pixels)

    def _measure(self, reader: Reader, index: int) -> int:
        try:
            width, height = reader.open(index).size
        except CorruptImageError as error:
            self._errors[index] = str(error)
            return 0
        return width * height

    def _fill(self, reader: Reader, index: int, channels: int, exif: bool) -> None:
        try:
            image = reader.open(index)
            pixels = to_array(decode(upright(image) if exif else image, channels))
        except CorruptImageError as error:
            self._errors[index] = str(error)
            return
        self._sizes[index] = pixels.shape
        self._place(index)[:] = pixels

    def _place(self, index: int) -> np.ndarray:
        channels, height, width = self._sizes[index].tolist()
        start = int(self._ends[index - 1]) if index else 0
        return np.ndarray((channels, height, width), np.uint8, self._block, start)


def _check_room(needed: int, count: int) -> None:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = free_memory()
    if free is not None and needed * processes > free * (1 - _KEPT_FREE):
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise UserError(
            f"data.cache=memory: {count:,} decoded pictures take {needed / 1e6:,.0f} MB{each}, "
            f"{free / 1e6:,.0f} MB are free on this machine; use data.cache=none"
        )


def free_memory() -> int | None:
    """Bytes that this process may still take: the machine's, or less in a container. None where nothing tells."""
    found = []
    if _MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if (_CGROUP / "memory.max").is_file() and (limit := (_CGROUP / "memory.max").read_text().strip()).isdecimal():
        used = int((_CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        found.append(int(limit) - used + int(counts["inactive_file"]))  # pages of files go when memory is wanted
    return min(found, default=None)
