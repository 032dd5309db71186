"""Index files: the packed list of a split on disk, memory-mapped, so that 1.28 million entries open at once.

The file is a safetensors file (a JSON header, then raw arrays); nothing in it can run code. All workers and
ranks of a machine share its pages.
"""

import json
import os
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from data.image_list import ImageList
from models.errors import UserError

_DTYPES = {"U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U32": np.uint32}
_OWN = ("names", "ends", "labels")


@dataclass
class MappedImageList(ImageList):
    """A list whose arrays are mapped from `index_file`. A worker maps them again; it copies only changed labels."""

    index_file: Path = field(kw_only=True)

    def __reduce__(self):
        changed = None if isinstance(self.labels, np.memmap) else self.labels
        return _map_again, (self.index_file, self.classes, changed)


def _map_again(path: Path, classes: list[str], labels: np.ndarray | None) -> ImageList:
    records, _ = load_index(path)
    return replace(records, classes=classes, labels=records.labels if labels is None else labels)


def save_index(records: ImageList, path: Path, source: str) -> None:
    """Write a list; `source` describes the data it belongs to. Complete or not at all (temporary file, rename)."""
    arrays = {"names": records.names, "ends": records.ends, "labels": records.labels, **records.extra}
    header = {"classes": json.dumps(records.classes), "source": source, "numbered": json.dumps(records.numbered)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, metadata=header))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_index(path: Path) -> tuple[ImageList, str]:
    """Map an index file; returns the list and its source. Raises UserError for a file that is not an index."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                raise ValueError("the header is cut off")
            header = json.loads(file.read(length))
        meta = header.pop("__metadata__")
        arrays = {key: _map(path, 8 + length, entry) for key, entry in header.items()}
        own = {key: arrays.pop(key) for key in _OWN}
        numbered = json.loads(meta.get("numbered", "false"))
        classes = json.loads(meta["classes"])
        records = MappedImageList(**own, classes=classes, extra=arrays, numbered=numbered, index_file=path)
        return records, meta["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an index file of this project ({error}); build it again") from error


def _map(path: Path, start: int, entry: dict) -> np.ndarray:
    first, last = entry["data_offsets"]
    if start + last > path.stat().st_size:
        raise ValueError("the data are cut off")
    if last == first:
        return np.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
    return np.memmap(path, _DTYPES[entry["dtype"]], mode="r", offset=start + first, shape=tuple(entry["shape"]))


def describe_files(paths: list[Path]) -> str:
    """Describe archives by name and size: enough to notice an index of other data, and copies keep it."""
    return json.dumps([[path.name, path.stat().st_size] for path in paths])


def describe_text(path: Path) -> str:
    """Describe a text file by its checksum."""
    return json.dumps([path.name, zlib.crc32(path.read_bytes())])


def describe_names(names: list[str]) -> str:
    """Describe a folder by the names of its class folders."""
    return json.dumps(["folders", len(names), zlib.crc32("\n".join(names).encode())])
