"""Parquet shards as the Hugging Face hub has them: `image: struct<bytes, path>`, `label`, names in the schema.

An image lies inside a row group, which can only be unpacked whole: 100 images in ImageNet's shards. A process keeps
the groups that it used last, up to `KEPT_BYTES`. docs/data.md says what that costs in a shuffled order.
"""

import filecmp
import json
import re
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data.classes import imagenet_synsets_of, shown_names
from data.decode import Encoded, describe, open_image
from data.errors import CorruptImageError
from data.image_list import ImageList, pack
from data.readers.csv_list import LABELS
from models.errors import UserError

KEPT_BYTES = 64 << 20
MAX_GROUP_BYTES = 1 << 30  # one random image costs as much memory as its group, in each worker
_PLACE = ("shard", "group", "first", "row")  # of an image: first is the first row of its group
_PART = re.compile(r"-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet$")


def _pyarrow() -> tuple[Any, Any]:
    """The optional library. Raises UserError with the command that installs it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("data.format=parquet needs pyarrow: python -m pip install 'pyarrow>=17'") from None
    return pyarrow, pyarrow.parquet


def list_parquet(pattern: Path) -> list[Path]:
    """Return the shards of a pattern such as `data/train-*.parquet`, sorted.

    Raises UserError where there are none, some of `-of-NNNNN` are missing, or two hold the same.
    """
    shards = sorted(pattern.parent.glob(pattern.name))
    if not shards:
        raise UserError(f"there are no parquet shards {pattern}")
    parts = [_PART.search(path.name) for path in shards]
    if any(parts):
        for path, part in zip(shards, parts, strict=True):
            if part is None:
                raise UserError(f"{path}: is not named -NNNNN-of-NNNNN.parquet as the other shards are")
        _check_parts(pattern, [(int(part[1]), int(part[2])) for part in parts if part])
    by_size = sorted(shards, key=lambda path: path.stat().st_size)
    for first, second in pairwise(by_size):
        if first.stat().st_size == second.stat().st_size and filecmp.cmp(first, second, shallow=False):
            raise UserError(f"{max(first, second)}: the same content as {min(first, second).name}")
    return shards


def _check_parts(pattern: Path, parts: list[tuple[int, int]]) -> None:
    totals = sorted({total for _, total in parts})
    if len(totals) > 1:
        raise UserError(f"{pattern}: shards of two sets, -of-{totals[0]:05d} and -of-{totals[1]:05d}")
    numbers = [number for number, _ in parts]
    missing = [f"{number:05d}" for number in range(totals[0]) if number not in set(numbers)]
    if missing:
        raise UserError(f"{pattern}: {len(missing)} of {totals[0]} shards are missing: {shown_names(missing)}")
    if len(numbers) != totals[0]:
        twice = next(number for number in numbers if numbers.count(number) > 1 or number >= totals[0])
        raise UserError(f"{pattern}: shard {twice:05d} of {totals[0]} is there twice or has no place")


def read_classes(shard: Path) -> list[str] | None:
    """Return the class names that a shard's schema has, ImageNet's as synsets; None where it has none."""
    with _open(shard) as file:
        return _classes(file.schema_arrow, shard)


def scan_parquet(shards: list[Path]) -> ImageList:
    """List the images of all shards in the order of their rows, without reading pictures.

    Labels are numbers, named by the schema where it has names. Raises UserError naming the shard, and the row.
    """
    labels, paths, places = [], [], []
    classes = read_classes(shards[0])
    for number, shard in enumerate(shards):
        with _open(shard) as file:
            if _classes(file.schema_arrow, shard) != classes:
                raise UserError(f"{shard}: other class names than {shards[0].name}")
            labels.append(_labels(file, shard, LABELS if classes is None else len(classes)))
            paths.append(_paths(file, shard))
            places.append(_places(file, shard, number))
    place = np.concatenate(places)
    if not len(place):
        raise UserError(f"{shards[0]} and {len(shards) - 1} more shards have no images")
    label = np.concatenate(labels)
    shown = classes or [str(number) for number in range(int(label.max()) + 1)]
    extra = {name: np.ascontiguousarray(place[:, number]) for number, name in enumerate(_PLACE)}
    return pack(_names(shards, paths), label, shown, numbered=classes is None, **extra)


def _open(shard: Path) -> Any:
    pyarrow, parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(shard, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shard} is no readable parquet file, or is cut off ({describe(error)})") from None
    schema = file.schema_arrow
    for column, right in (("image", _is_image), ("label", pyarrow.types.is_integer)):
        if column not in schema.names or not right(schema.field(column).type):
            found = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise UserError(f"{shard}: needs the columns image: struct<bytes, path> and label: int64, has {found}")
    return file


def _is_image(kind: Any) -> bool:
    types = _pyarrow()[0].types
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return types.is_binary(content) or types.is_large_binary(content)


def _classes(schema: Any, shard: Path) -> list[str] | None:
    """The names of the ClassLabel `label`, where the library that wrote the shard noted them."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = noted.get("info", {}).get("features", {}).get("label", {}).get("names")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{shard}: the key huggingface of its schema cannot be read ({describe(error)})") from None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
        raise UserError(f"{shard}: the class names in its schema are no list of different names")
    return imagenet_synsets_of(names) or names


def _labels(file: Any, shard: Path, count: int) -> np.ndarray:
    column = _column(file, shard, "label")
    if column.null_count:
        raise UserError(f"{shard} row {column.is_null().to_pylist().index(True)}: has no label")
    labels = column.to_numpy().astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise UserError(f"{shard} row {wrong[0]}: label {labels[wrong[0]]} is not one of 0 to {count - 1}")
    return labels


def _column(file: Any, shard: Path, name: str) -> Any:
    pyarrow, _ = _pyarrow()
    try:
        return file.read(columns=[name], use_threads=False).column(0)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shard}: its column {name} cannot be read ({describe(error)})") from None


def _paths(file: Any, shard: Path) -> list[str | None]:
    """The file names that the images once had."""
    if file.schema_arrow.field("image").type.get_field_index("path") < 0:
        return [None] * file.metadata.num_rows
    return _column(file, shard, "image.path").combine_chunks().field("path").to_pylist()


def _places(file: Any, shard: Path, number: int) -> np.ndarray:
    """int32 (rows, 4), the columns of `_PLACE`."""
    rows = []
    first = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        if about.total_byte_size > MAX_GROUP_BYTES:
            raise UserError(
                f"{shard}: row group {group} holds {about.total_byte_size:,} bytes, which each single image would take "
                f"into memory; write it again with row_group_size=100"
            )
        here = np.arange(first, first + about.num_rows, dtype=np.int32)
        rows.append(np.stack([np.full_like(here, value) for value in (number, group, first)] + [here], axis=1))
        first += about.num_rows
    return np.concatenate(rows) if rows else np.empty((0, 4), np.int32)


def _names(shards: list[Path], paths: list[list[str | None]]) -> list[str]:
    """The file names where all rows have one of their own, else shard and row."""
    known = [path for shard in paths for path in shard if path]
    if len(set(known)) == sum(map(len, paths)):
        return known
    return [f"{shard.name} row {row}" for shard, own in zip(shards, paths, strict=True) for row in range(len(own))]


class ParquetReader:
    """Reads images of parquet shards by row group. Nothing stays open, so neither fork nor spawn shares anything."""

    def __init__(self, shards: list[Path], max_pixels: int, records: ImageList) -> None:
        self.records = records
        self.max_pixels = max_pixels
        self.shards = shards
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()  # the last used at the end
        _pyarrow()

    def open(self, index: int) -> Encoded:
        """Return the image, not yet decoded. Raises CorruptImageError naming the shard and the row."""
        shard, group, first, row = (int(self.records.extra[key][index]) for key in _PLACE)
        name = f"{self.shards[shard]} row {row} ({self.records.name(index)})"
        images = self._group(shard, group, name)
        if row - first >= len(images):
            raise CorruptImageError(f"{name}: the shard is damaged or newer than its index")
        data = images[row - first].as_py()
        if data is None:
            raise CorruptImageError(f"{name}: has no bytes")
        return open_image(data, name, self.max_pixels)

    def _group(self, shard: int, group: int, name: str) -> Any:
        """The pictures of a row group, from memory where they are."""
        pyarrow, parquet = _pyarrow()
        if (shard, group) not in self._groups:
            try:
                with parquet.ParquetFile(self.shards[shard], pre_buffer=False) as file:
                    table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
            except (pyarrow.ArrowException, OSError, IndexError) as error:
                raise CorruptImageError(f"{name}: the shard cannot be read ({describe(error)})") from error
            images = pyarrow.chunked_array([chunk.field("bytes") for chunk in table.column(0).chunks])
            self._groups[shard, group] = images
            while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end((shard, group))
        return self._groups[shard, group]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_groups": OrderedDict()}
