"""Parquet shards piece by piece: what their names, schemas and row groups may be, and how groups are kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data.errors import CorruptImageError
from data.readers import parquet as reading
from data.readers.parquet import ParquetReader, list_parquet, read_classes, scan_parquet
from models.errors import UserError
from tests.archive_files import jpeg
from tests.parquet_files import write_parquet

NAMES = ["cat", "ant", "bee"]
BYTES, LARGE, TEXT = (pyarrow.struct([("bytes", k())]) for k in (pyarrow.binary, pyarrow.large_binary, pyarrow.string))


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def rows(first: int, count: int) -> list[tuple[bytes | None, str | None, int | None]]:
    return [(jpeg(number), f"{number}.jpg", number % 3) for number in range(first, first + count)]


def part(folder: Path, number: int, of: int, *, end: str = "") -> Path:
    path = folder / f"t-{number:05d}-of-{of:05d}{end}.parquet"
    write_parquet(path, rows(10 * number + of, 2), NAMES)
    return path


def test_names_of_shards_say_whether_all_are_there(tmp_path: Path) -> None:
    pattern = tmp_path / "t-*.parquet"
    assert refused(lambda: list_parquet(pattern)) == f"there are no parquet shards {pattern}"
    first = part(tmp_path, 0, 4)
    told = f"{pattern}: 3 of 4 shards are missing: '00001', '00002', '00003'"
    assert refused(lambda: list_parquet(pattern)) == told
    paths = [first, *(part(tmp_path, number, 4) for number in (1, 2, 3))]
    assert list_parquet(pattern) == paths
    beyond = part(tmp_path, 4, 4)
    told = f"{pattern}: shard 00004 of 4 is there twice or has no place"
    assert refused(lambda: list_parquet(pattern)) == told
    beyond.unlink()
    twice = part(tmp_path, 1, 4, end="-0a")
    told = f"{pattern}: shard 00001 of 4 is there twice or has no place"
    assert refused(lambda: list_parquet(pattern)) == told
    twice.unlink()
    other = part(tmp_path, 1, 12)
    told = f"{pattern}: shards of two sets, -of-00004 and -of-00012"
    assert refused(lambda: list_parquet(pattern)) == told
    other.unlink()
    bare = tmp_path / "t-x.parquet"
    write_parquet(bare, rows(70, 1), NAMES)
    told = f"{bare}: is not named -NNNNN-of-NNNNN.parquet as the other shards are"
    assert refused(lambda: list_parquet(pattern)) == told


def test_the_same_shard_under_two_names_is_refused_and_one_of_its_size_is_not(tmp_path: Path) -> None:
    for name, content in (("b", b"123"), ("c", b"124"), ("a", b"12")):
        (tmp_path / f"{name}.parquet").write_bytes(content)
    pattern = tmp_path / "*.parquet"
    assert [path.stem for path in list_parquet(pattern)] == ["a", "b", "c"]
    (tmp_path / "d.parquet").write_bytes(b"12")
    assert refused(lambda: list_parquet(pattern)) == f"{tmp_path}/d.parquet: the same content as a.parquet"


def write(path: Path, noted: bytes | None) -> Path:
    """A shard of one row whose schema has this note; its picture has no path."""
    column = pyarrow.array([{"bytes": jpeg()}], type=BYTES)
    table = pyarrow.table({"label": [0], "image": column})
    pyarrow.parquet.write_table(table.replace_schema_metadata(None if noted is None else {"huggingface": noted}), path)
    return path


def note(names: Any) -> bytes:
    return json.dumps({"info": {"features": {"label": {"names": names}}}}).encode()


@pytest.mark.parametrize(
    ("noted", "classes"),
    [
        (None, None),
        (b"{}", None),
        (b'{"info": {}}', None),
        (b'{"info": {"features": {}}}', None),
        (b'{"info": {"features": {"label": {}}}}', None),
        (note(["b", "a"]), ["b", "a"]),
    ],
)
def test_class_names_are_those_of_the_schema(tmp_path: Path, noted: bytes | None, classes: list[str] | None) -> None:
    path = write(tmp_path / "t.parquet", noted)
    assert read_classes(path) == classes
    records = scan_parquet([path])
    assert (records.classes, records.numbered) == (classes or ["0"], classes is None)
    assert records.name(0) == "t.parquet row 0"  # no path in the struct


@pytest.mark.parametrize("noted", [note("ab"), note(["a", 1]), note(["a", "a"]), note({"a": 0})])
def test_class_names_that_are_none_are_refused(tmp_path: Path, noted: bytes) -> None:
    path = write(tmp_path / "t.parquet", noted)
    told = f"{path}: the class names in its schema are no list of different names"
    assert refused(lambda: read_classes(path)) == told


@pytest.mark.parametrize("noted", [b"{", b"[]", b'{"info": 1}'])
def test_a_note_that_cannot_be_read_is_refused(tmp_path: Path, noted: bytes) -> None:
    path = write(tmp_path / "t.parquet", noted)
    assert refused(lambda: read_classes(path)).startswith(f"{path}: the key huggingface of its schema cannot be read (")


@pytest.mark.parametrize(
    ("kind", "label", "fits"),
    [
        (LARGE, pyarrow.int32(), True),
        (TEXT, pyarrow.int64(), False),
        (pyarrow.binary(), pyarrow.int64(), False),
        (pyarrow.struct([("content", pyarrow.binary())]), pyarrow.int64(), False),
        (BYTES, pyarrow.float64(), False),
        (BYTES, pyarrow.uint8(), True),
    ],
)
def test_columns_of_other_kinds_are_named_as_they_are(tmp_path: Path, kind: Any, label: Any, fits: bool) -> None:
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"label": pyarrow.array([0], type=label), "image": pyarrow.nulls(1, kind)})
    pyarrow.parquet.write_table(table, path)
    if fits:
        assert len(scan_parquet([path])) == 1
        return
    told = f"{path}: needs the columns image: struct<bytes, path> and label: int64, has label: {label}, image: {kind}"
    assert refused(lambda: scan_parquet([path])) == told


def test_places_of_rows_are_their_shard_group_and_row(tmp_path: Path) -> None:
    for number, count in enumerate((5, 0, 3)):
        write_parquet(tmp_path / f"{number}.parquet", rows(10 * number, count), NAMES, rows=2)
    records = scan_parquet([tmp_path / f"{number}.parquet" for number in range(3)])
    wanted = {
        "shard": [0, 0, 0, 0, 0, 2, 2, 2],
        "group": [0, 0, 1, 1, 2, 0, 0, 1],
        "first": [0, 0, 2, 2, 4, 0, 0, 2],
        "row": [0, 1, 2, 3, 4, 0, 1, 2],
    }
    assert {key: values.tolist() for key, values in records.extra.items()} == wanted
    assert {values.dtype for values in records.extra.values()} == {np.dtype(np.int32)}
    assert all(values.flags.c_contiguous for values in records.extra.values())
    assert [records.name(index) for index in (0, 5, 7)] == ["0.jpg", "20.jpg", "22.jpg"]
    empty = tmp_path / "3.parquet"  # without a single row group
    pyarrow.parquet.ParquetWriter(empty, pyarrow.parquet.read_schema(tmp_path / "1.parquet")).close()
    for path in (tmp_path / "1.parquet", empty):
        assert refused(lambda path=path: scan_parquet([path])) == f"{path} and 0 more shards have no images"


def test_names_that_are_there_twice_are_replaced_by_places(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", rows(0, 2), NAMES)
    write_parquet(tmp_path / "b.parquet", rows(1, 2), NAMES)
    records = scan_parquet([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    names = [records.name(index) for index in range(4)]
    assert names == ["a.parquet row 0", "a.parquet row 1", "b.parquet row 0", "b.parquet row 1"]


def test_labels_may_be_the_lowest_and_the_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, [(jpeg(), "a", 2), (jpeg(), "b", 0)], NAMES)
    assert scan_parquet([path]).labels.tolist() == [2, 0]
    monkeypatch.setattr(reading, "LABELS", 5)
    write_parquet(path, [(jpeg(), "a", 4), (jpeg(), "b", 5)], None)
    assert refused(lambda: scan_parquet([path])) == f"{path} row 1: label 5 is not one of 0 to 4"
    write_parquet(path, [(jpeg(), "a", 4), (jpeg(), "b", None)], None)
    assert refused(lambda: scan_parquet([path])) == f"{path} row 1: has no label"


def test_a_group_may_be_as_large_as_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, rows(0, 3), NAMES, rows=2)
    size = max(pyarrow.parquet.ParquetFile(path).metadata.row_group(group).total_byte_size for group in (0, 1))
    monkeypatch.setattr(reading, "MAX_GROUP_BYTES", size)
    assert len(scan_parquet([path])) == 3
    monkeypatch.setattr(reading, "MAX_GROUP_BYTES", size - 1)
    assert refused(lambda: scan_parquet([path])) == (
        f"{path}: row group 0 holds {size:,} bytes, which each single image would take into memory; write it again "
        "with row_group_size=100"
    )


@pytest.fixture
def reader(tmp_path: Path) -> ParquetReader:
    """Four groups of two pictures."""
    path = tmp_path / "t.parquet"
    write_parquet(path, rows(0, 8), NAMES, rows=2)
    return ParquetReader([path], 64, scan_parquet([path]))


def test_the_groups_used_last_are_kept(reader: ParquetReader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.open(0)
    (kept,) = reader._groups.values()
    monkeypatch.setattr(reading, "KEPT_BYTES", int(2.5 * kept.nbytes))
    for index, wanted in ((2, [0, 1]), (1, [1, 0]), (4, [0, 2]), (5, [0, 2]), (6, [2, 3])):
        assert reader.open(index).data == jpeg(index)
        assert list(reader._groups) == [(0, group) for group in wanted]
    monkeypatch.setattr(reading, "KEPT_BYTES", 0)  # the one that is used stays
    reader.open(0)
    assert list(reader._groups) == [(0, 0)]


def test_only_pictures_are_read_and_nothing_stays_open(reader: ParquetReader, monkeypatch) -> None:
    asked, original = [], pyarrow.parquet.ParquetFile

    class Spied:
        def __init__(self, path: Path, *, pre_buffer: bool) -> None:
            asked.append(pre_buffer)
            self.file = original(path)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            asked.append("closed")
            self.file.close()

        def read_row_group(self, group: int, *, columns: list[str], use_threads: bool) -> Any:
            asked.append((group, columns, use_threads))
            return self.file.read_row_group(group, columns=columns)

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", Spied)
    assert reader.open(7).data == jpeg(7)
    assert asked == [False, (3, ["image.bytes"], False), "closed"]


def test_what_a_row_has_instead_of_a_picture_is_named(reader: ParquetReader, tmp_path: Path) -> None:
    name = f"{tmp_path}/t.parquet row"
    found = reader.open(3)
    assert (found.name, found.size, found.data) == (f"{name} 3 (3.jpg)", (8, 8), jpeg(3))
    small = ParquetReader(reader.shards, 63, reader.records)

    def broken(index: int, by: ParquetReader) -> str:
        with pytest.raises(CorruptImageError) as caught:
            by.open(index)
        return str(caught.value)

    assert broken(0, small) == f"{name} 0 (0.jpg): 8 x 8 pixels are above data.max_pixels 63"
    write_parquet(tmp_path / "t.parquet", [(None, "0.jpg", 0), *rows(1, 2)], NAMES, rows=2)
    newer = ParquetReader(reader.shards, 64, reader.records)
    assert broken(0, newer) == f"{name} 0 (0.jpg): has no bytes"
    assert broken(3, newer) == f"{name} 3 (3.jpg): the shard is damaged or newer than its index"
    assert broken(6, newer).startswith(f"{name} 6 (6.jpg): the shard cannot be read (")


def test_a_column_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The footer is whole, the pages of the labels are not."""
    path = part(tmp_path, 0, 1)
    group = pyarrow.parquet.read_metadata(path).row_group(0)
    (labels,) = (at for at in map(group.column, range(group.num_columns)) if at.path_in_schema == "label")
    start = labels.dictionary_page_offset or labels.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + labels.total_compressed_size] = b"\xff" * labels.total_compressed_size
    path.write_bytes(content)
    said = refused(lambda: scan_parquet([path]))
    assert said.startswith(f"{path}: its column label cannot be read (")
