"""A list of images as packed arrays: 1.28 million entries in some 60 MB that all workers share."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from data.rng import hash64, permutation
from models.errors import UserError

_PART = 0x70617274  # separates the order that parts are drawn in from other hashes


@dataclass
class ImageList:
    """Names and labels of all images of a split.

    names: uint8 (bytes,), all names joined, UTF-8. ends: int64 (n,), where each name ends.
    labels: int32 (n,). classes: the class names in label order. extra: more arrays (n,) of a reader.
    numbered: the labels are numbers that nothing names; the classes are those numbers then.
    """

    names: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    classes: list[str]
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the name (path below the root, or archive member) of one image."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].tobytes().decode()

    def digest(self) -> str:
        """Return a hash of all sorted names with their classes: the same for the same images in any order."""
        pairs = sorted(f"{self.name(index)}\t{self.classes[label]}" for index, label in enumerate(self.labels.tolist()))
        return hashlib.sha256("\n".join(pairs).encode()).hexdigest()


def pack(
    names: list[str],
    labels: list[int] | np.ndarray,
    classes: list[str],
    *,
    numbered: bool = False,
    **extra: np.ndarray,
) -> ImageList:
    """Pack lists into an `ImageList`. Raises UserError for a label outside the classes."""
    encoded = [name.encode() for name in names]
    label_array = np.asarray(labels, dtype=np.int32).reshape(-1)
    if len(label_array) and not 0 <= label_array.min() <= label_array.max() < len(classes):
        bad = int(np.flatnonzero((label_array < 0) | (label_array >= len(classes)))[0])
        raise UserError(f"label {label_array[bad]} of {names[bad]} is outside the {len(classes)} classes")
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    joined = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return ImageList(joined, ends, label_array, list(classes), extra, numbered)


def balanced_part(records: ImageList, count: int, key: str) -> tuple[ImageList, ImageList]:
    """Return `count` images in their order, taken from each class alike and evenly spread over its list; and the rest.

    Where the classes do not divide `count`, the first ones give one image more. Raises UserError where a class has too
    few; `key` names the option.
    """
    share, extra = divmod(count, len(records.classes))
    chosen = []
    for label, name in enumerate(records.classes):
        own = np.flatnonzero(records.labels == label)
        wanted = share + (label < extra)
        if wanted > len(own):
            raise UserError(f"{key}={count}: takes {wanted} images of {name!r}, which has {len(own)}")
        chosen.append(own[np.arange(wanted) * len(own) // max(1, wanted)])
    part = np.concatenate(chosen)
    return _taken(records, part), _taken(records, np.setdiff1d(np.arange(len(records)), part))


def random_part(records: ImageList, count: int) -> ImageList:
    """Return `count` images in their order, drawn from all alike: :func:`random_indices`. Raises UserError."""
    return _taken(records, random_indices(len(records), count, "eval.images"))


def random_indices(total: int, count: int, what: str) -> np.ndarray:
    """Return int64 (count,): which of `total` images make a part; always the same, and in each larger part.

    Raises UserError where there are fewer; `what` names the option.
    """
    if count > total:
        raise UserError(f"{what}: {count} images are wanted, there are {total}")
    return np.sort(permutation(hash64(_PART), total)[:count])


def _taken(records: ImageList, indices: np.ndarray) -> ImageList:
    indices = np.sort(indices)
    names = [records.name(index) for index in indices.tolist()]
    arrays = {key: values[indices] for key, values in records.extra.items()}
    return pack(names, records.labels[indices], records.classes, numbered=records.numbered, **arrays)


def check_name(name: str, source: Path) -> str:
    """Return a name from an archive or a list if it stays below the root. Raises UserError otherwise."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise UserError(f"{source}: the name {name!r} leads outside; names must be relative, without '..'")
    return name


def is_hidden(name: str) -> bool:
    """Whether a file is a side file of a system or a program (`._x.jpg`, `.thumb/x.jpg`, `__MACOSX/`), not data."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def check_once(names: list[str], source: Path) -> None:
    """Raises UserError where a name is there twice: its image would count twice."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise UserError(f"{source}: {name!r} is there {count} times; each image counts once")


def folder_classes(names: list[str], source: Path) -> list[str]:
    """Return the class of each archive member: its first folder, below folders that hold everything.

    Raises UserError where a member lies in no folder.
    """
    for name in names:
        if not PurePosixPath(name).parent.name:
            raise UserError(f"{source}: {name!r} lies in no class folder, and no list of labels is given")
    return first_folders(names)


def first_folders(names: list[str]) -> list[str]:
    """Return the first folder of each name, below folders that hold everything; each name lies in a folder."""
    paths = [PurePosixPath(name).parts for name in names]
    depth = 0
    while paths and all(len(parts) > depth + 2 for parts in paths) and len({parts[depth] for parts in paths}) == 1:
        depth += 1
    return [parts[depth] for parts in paths]
