"""Large files that several processes read by offset."""

import os
from pathlib import Path


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
