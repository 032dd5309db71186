"""Parquet shards of the hub: names, order and places as written; what is missing, cut off or broken is named."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import timm.data
from PIL import Image

from data import DataConfig, build_eval_loader, build_train_loader
from data.errors import CorruptImageError
from data.index import save_index
from data.readers import describe_source, index_path, open_reader, quick_classes, scan
from data.readers import parquet as reading
from models.errors import UserError
from tests.parquet_files import write_parquet

NAMES = ["cat", "ant", "bee"]  # not sorted: the number of a label is its place here


def png(value: int) -> bytes:
    """A picture whose pixels all have one value."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(first: int, count: int) -> list[tuple[bytes | None, str | None, int | None]]:
    """Pictures whose value is their number, label number % 3."""
    return [(png(number), f"{number}.png", number % 3) for number in range(first, first + count)]


def shards(root: Path, split: str = "train", count: int = 3) -> list[Path]:
    """Write shards of 7 pictures, in row groups of 3; picture k is at place k."""
    paths = [root / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    for number, path in enumerate(paths):
        write_parquet(path, rows(7 * number, 7), NAMES, rows=3)
    return paths


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "format": "parquet", "workers": 0, **changes})


def refused(root: Path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        open_reader(config(root, **changes), "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_keep_their_order_labels_and_names(tmp_path: Path) -> None:
    shards(tmp_path)
    reader = open_reader(config(tmp_path), "train")
    assert reader.records.classes == NAMES and not reader.records.numbered
    for place in (20, 0, 7, 6, 13, 2, 3):  # over shards and groups, back and forth
        assert reader.open(place).open().convert("L").getpixel((0, 0)) == place
        assert reader.records.labels[place] == place % 3 and reader.records.name(place) == f"{place}.png"
    part = open_reader(config(tmp_path, train_images=6), "train")
    for place in range(6):
        value = part.open(place).open().convert("L").getpixel((0, 0))
        assert part.records.name(place) == f"{value}.png" and part.records.labels[place] == value % 3


def test_validation_is_matched_by_the_names_of_the_schema(tmp_path: Path) -> None:
    shards(tmp_path)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows(1, 1), ["ant", "bee", "cat"])
    assert quick_classes(config(tmp_path), "train") == NAMES
    loader = build_eval_loader(config(tmp_path), img_size=8, batch_size=2)  # label 1 is bee, 2 in training
    assert next(iter(loader)).targets.tolist() == [2]


def test_the_words_of_imagenet_become_its_synsets(tmp_path: Path) -> None:
    info = timm.data.ImageNetInfo()
    words = [info.index_to_description(number) for number in range(1000)]
    words[517] = "crane2"  # so that no two classes have one name
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    write_parquet(path, [(png(0), "x.JPEG", 134)], words)
    assert scan(config(tmp_path), "train").classes == info.label_names()
    words[0], words[1] = words[1], words[0]  # another order is another list, and stays as it is
    write_parquet(path, [(png(0), "x.JPEG", 134)], words)
    assert scan(config(tmp_path), "train").classes == words


def test_without_names_labels_are_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", [(png(3), None, 4), (png(5), None, 1)], None)
    records = scan(config(tmp_path), "train")
    assert records.numbered and records.classes == list("01234") and records.labels.tolist() == [4, 1]
    assert [records.name(0), records.name(1)] == ["train-0.parquet row 0", "train-0.parquet row 1"]
    listed = tmp_path / "names.txt"
    listed.write_text("a\nb\nc\nd\ne\n")
    assert open_reader(config(tmp_path, classes=str(listed)), "train").records.classes == list("abcde")


def test_memory_is_bounded_by_the_groups_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).bytes
    path = tmp_path / "data" / "train-0.parquet"
    write_parquet(path, [(noise(50_000), str(number), 0) for number in range(60)], ["a"], rows=4)
    monkeypatch.setattr(reading, "KEPT_BYTES", 500_000)
    reader = reading.ParquetReader([path], 10**9, scan(config(tmp_path), "train"))
    for place in np.random.default_rng(1).integers(0, 60, 100).tolist():
        group = reader._group(0, place // 4, "x")
        assert len(group) == 4 and group.nbytes > 200_000
        assert sum(kept.nbytes for kept in reader._groups.values()) <= 500_000
    assert len(reader._groups) == 2
    assert len(pickle.dumps(reader)) < 10_000  # pictures do not travel to a spawned worker


def test_missing_doubled_and_mixed_shards_are_refused(tmp_path: Path) -> None:
    first, second, _ = shards(tmp_path)
    second.rename(tmp_path / "kept")
    assert "train-*.parquet: 1 of 3 shards are missing: '00001'" in refused(tmp_path)
    write_parquet(second, rows(0, 7), NAMES, rows=3)
    assert f"{second}: the same content as {first.name}" in refused(tmp_path)
    (tmp_path / "kept").rename(second)
    other = first.with_name("train-00000-of-00004.parquet")
    write_parquet(other, rows(50, 1), NAMES)
    assert "shards of two sets, -of-00003 and -of-00004" in refused(tmp_path)
    other.rename(first.with_name("train-extra.parquet"))
    assert "train-extra.parquet: is not named -NNNNN-of-NNNNN.parquet" in refused(tmp_path)
    (tmp_path / "data" / "train-extra.parquet").rename(first.with_name("train-00002-of-00003-0a1b.parquet"))
    assert "shard 00002 of 3 is there twice" in refused(tmp_path)


@pytest.mark.parametrize(("keep", "message"), [(-40, "or is cut off"), (0.5, "or is cut off"), (0, "or is cut off")])
def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path, keep: float, message: str) -> None:
    path = shards(tmp_path)[1]
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    assert f"{path} is no readable parquet file, {message}" in refused(tmp_path)


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ((b"", "x", 3), NAMES, r"row 7: label 3 is not one of 0 to 2"),
        ((b"", "x", -1), NAMES, r"row 7: label -1 is not one of 0 to 2"),
        ((b"", "x", 20240101), None, r"row 7: label 20240101 is not one of 0 to 1048575"),
        ((b"", "x", None), NAMES, r"row 7: has no label"),
        ((b"", "x", 0), ["cat", "ant", "ant"], r"the class names in its schema are no list of different names"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, row: tuple, names: list[str] | None, message: str) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    write_parquet(path, [*rows(0, 7), row], names)
    assert f"{path}{':' if 'schema' in message else ''} {message}" in refused(tmp_path)


def test_other_columns_and_other_names_are_refused(tmp_path: Path) -> None:
    first, second, _ = shards(tmp_path)
    write_parquet(second, rows(7, 7), ["cat", "bee", "ant"])
    assert f"{second}: other class names than {first.name}" in refused(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"img": ["x"], "label": [1]}), first)
    assert "needs the columns image: struct<bytes, path> and label: int64, has img: string, label: int64" in refused(
        tmp_path
    )


def test_a_group_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shards(tmp_path)[0]
    monkeypatch.setattr(reading, "MAX_GROUP_BYTES", 200)
    assert f"{path}: row group 0 holds" in refused(tmp_path) and "row_group_size=100" in refused(tmp_path)


@pytest.mark.parametrize("broken", ["null", "no struct", "no image"])
def test_a_broken_picture_is_named_replaced_and_counted(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    content = {"null": None, "no struct": None, "no image": b"not a picture"}[broken]
    write_parquet(path, [*rows(0, 5), (content, "5.png", 2), *rows(6, 2)], NAMES, rows=4)
    if broken == "no struct":
        replace_by_null(path, 5)
    reader = open_reader(config(tmp_path), "train")
    with pytest.raises(CorruptImageError, match=rf"{path} row 5 \(.*\): (has no bytes|not a readable image)"):
        reader.open(5)
    loader = build_train_loader(config(tmp_path, max_corrupt=0.2), img_size=8, batch_size=2)
    labels = [label for batch in loader.epoch(0) for label in batch.targets.tolist()]
    assert set(loader.replaced) == {5} or (len(labels) == 8 and 5 not in loader.replaced)
    assert all("row 5" in entry.reason for entry in loader.replaced.values())


def replace_by_null(path: Path, row: int) -> None:
    """Let a row have no struct at all."""
    table = pyarrow.parquet.read_table(path)
    images = table.column("image").to_pylist()
    images[row] = None
    column = pyarrow.array(images, type=table.schema.field("image").type)
    pyarrow.parquet.write_table(table.set_column(0, "image", column), path, row_group_size=4)


def test_damage_inside_a_shard_is_named(tmp_path: Path) -> None:
    path = shards(tmp_path, count=1)[0]
    reader = open_reader(config(tmp_path), "train")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the head of the first page
    path.write_bytes(content)
    with pytest.raises(CorruptImageError, match=rf"{path} row 0 .*: the shard cannot be read"):
        reader.open(0)
    path.unlink()
    with pytest.raises(CorruptImageError, match=rf"{path} row 4 .*: the shard cannot be read"):
        reader.open(4)


def test_an_index_of_other_shards_is_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    path = shards(tmp_path)[0]
    save_index(scan(cfg, "train"), index_path(cfg, "train"), describe_source(cfg, "train"))
    assert open_reader(cfg, "train").open(20).open().convert("L").getpixel((0, 0)) == 20
    write_parquet(path, rows(30, 6), NAMES)
    assert "belongs to other data" in refused(tmp_path)


def test_a_missing_library_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(tmp_path) == "data.format=parquet needs pyarrow: python -m pip install 'pyarrow>=17'"
