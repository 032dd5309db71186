"""A list of images as packed arrays: 1.28 million entries in some 60 MB that all workers share."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from data.errors import DataError


@dataclass
class ImageList:
    """Names and labels of all images of a split.

    names: uint8 (bytes,), all names joined, UTF-8. ends: int64 (n,), where each name ends.
    labels: int32 (n,). classes: the class names in label order. extra: more arrays (n,) of a reader.
    """

    names: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    classes: list[str]
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the name (path below the root, or archive member) of one image."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].tobytes().decode()

    def stem(self, index: int) -> str:
        """Return the file name without folders: the key of ReaL labels."""
        return PurePosixPath(self.name(index)).name


def pack(names: list[str], labels: list[int] | np.ndarray, classes: list[str], **extra: np.ndarray) -> ImageList:
    """Pack lists into an `ImageList`. Raises DataError for a label outside the classes."""
    encoded = [name.encode() for name in names]
    label_array = np.asarray(labels, dtype=np.int32).reshape(-1)
    if len(label_array) and not 0 <= label_array.min() <= label_array.max() < len(classes):
        bad = int(np.flatnonzero((label_array < 0) | (label_array >= len(classes)))[0])
        raise DataError(f"label {label_array[bad]} of {names[bad]} is outside the {len(classes)} classes")
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return ImageList(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, label_array, list(classes), extra)
