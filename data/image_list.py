"""A list of images as packed arrays: 1.28 million entries in some 60 MB that all workers share."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from models.errors import UserError


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


def pack(names: list[str], labels: list[int] | np.ndarray, classes: list[str], **extra: np.ndarray) -> ImageList:
    """Pack lists into an `ImageList`. Raises UserError for a label outside the classes."""
    encoded = [name.encode() for name in names]
    label_array = np.asarray(labels, dtype=np.int32).reshape(-1)
    if len(label_array) and not 0 <= label_array.min() <= label_array.max() < len(classes):
        bad = int(np.flatnonzero((label_array < 0) | (label_array >= len(classes)))[0])
        raise UserError(f"label {label_array[bad]} of {names[bad]} is outside the {len(classes)} classes")
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return ImageList(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, label_array, list(classes), extra)


def balanced_part(records: ImageList, count: int) -> ImageList:
    """Return `count` images in their order, taken from each class alike and evenly spread over its list.

    Where the classes do not divide `count`, the first ones give one image more. Raises UserError where a class has too
    few.
    """
    share, extra = divmod(count, len(records.classes))
    chosen = []
    for label, name in enumerate(records.classes):
        own = np.flatnonzero(records.labels == label)
        wanted = share + (label < extra)
        if wanted > len(own):
            raise UserError(f"data.train_images={count}: takes {wanted} images of {name!r}, which has {len(own)}")
        chosen.append(own[np.arange(wanted) * len(own) // max(1, wanted)])
    indices = np.sort(np.concatenate(chosen))
    names = [records.name(index) for index in indices.tolist()]
    arrays = {key: values[indices] for key, values in records.extra.items()}
    return pack(names, records.labels[indices], records.classes, **arrays)


def check_name(name: str, source: Path) -> str:
    """Return a name from an archive or a list if it stays below the root. Raises UserError otherwise."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise UserError(f"{source}: the name {name!r} leads outside; names must be relative, without '..'")
    return name


def parent_class(name: str, source: Path) -> str:
    """Return the folder that an archive member lies in: its class. Raises UserError where there is none."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise UserError(f"{source}: {name!r} lies in no class folder, and no list of labels is given")
    return parts[-2]
