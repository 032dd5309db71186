"""Data that are not whole, or hold what is none, are read right or refused with the name of the file."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataConfig, build_eval_loader, build_train_loader
from data.classes import load_classes, sort_classes
from data.index import save_index
from data.readers import describe_source, index_path, scan
from models.errors import UserError
from tests import archive_files
from tests.archive_files import jpeg


def names_in(root: Path, form: str, split: str = "val") -> list[str]:
    records = scan(DataConfig(root=root, format=form), split)
    return [records.name(index) for index in range(len(records))]


def write_tar(path: Path, names: list[str]) -> Path:
    return archive_files.write_tar(path, [(name, jpeg() if name.endswith(".jpg") else b"1") for name in names])


def write_zip(path: Path, names: list[str]) -> Path:
    return archive_files.write_zip(path, [(name, jpeg()) for name in names])


def write_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())
    return root


def refused(root: Path, form: str, split: str = "val") -> str:
    with pytest.raises(UserError) as caught:
        scan(DataConfig(root=root, format=form), split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


IMAGES = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)]


def end_of_member(path: Path, number: int) -> int:
    with tarfile.open(path) as archive:
        member = archive.getmembers()[number]
    return member.offset_data + -(-member.size // 512) * 512


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_shard_cut_at_the_end_of_a_member_is_refused(tmp_path: Path, after: int) -> None:
    """As a full disk or a broken download leaves it: Python's reader takes it for whole."""
    path = write_tar(tmp_path / "val-0.tar", IMAGES)
    content = path.read_bytes()
    for zeros in (0, 512):
        path.write_bytes(content[: end_of_member(path, after)] + bytes(zeros))
        assert f"val-0.tar: cut off after '{IMAGES[after]}'" in refused(tmp_path, "tar")
        path.write_bytes(content)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "val-0.tar", IMAGES)
    content = bytearray(path.read_bytes())
    content[end_of_member(path, 1) + 3] ^= 0xFF  # in the third member's name: its checksum no longer fits
    path.write_bytes(content)
    assert f"what stands after '{IMAGES[1]}'" in refused(tmp_path, "tar")


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    first, second = write_tar(tmp_path / "a", IMAGES[:2]), write_tar(tmp_path / "b", IMAGES[2:])
    (tmp_path / "val-0.tar").write_bytes(first.read_bytes() + second.read_bytes())
    assert "or two archives in one" in refused(tmp_path, "tar")


def test_a_zip_without_its_directory_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "val.zip", IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"PK\x01\x02")])
    assert "val.zip is not a readable zip file" in refused(tmp_path, "zip")


def test_a_list_of_a_part_of_a_zip_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "val.zip", IMAGES)
    (tmp_path / "val_map.txt").write_text("".join(f"{name}\t0\n" for name in IMAGES[:4]))
    assert "val_map.txt lists 4 of the 6 images in val.zip" in refused(tmp_path, "zip")


@pytest.mark.parametrize("head", ["", "path,label\n", "filename,category\n", "\ufeff", "\ufeffimage,class\n"])
@pytest.mark.parametrize("labels", [("0", "1"), ("cat", "dog")])
def test_heads_of_lists_are_no_images(tmp_path: Path, head: str, labels: tuple[str, str]) -> None:
    lines = "".join(f"{name},{labels[name.startswith('dog')]}\n" for name in IMAGES)
    (tmp_path / "val.csv").write_text(head + lines, encoding="utf-8")
    records = scan(DataConfig(root=tmp_path, format="csv"), "val")
    assert [records.name(index) for index in range(len(records))] == IMAGES
    assert records.labels.tolist() == [0, 0, 0, 1, 1, 1] and records.classes == ["cat", "dog"]


@pytest.mark.parametrize(("text", "message"), [
    ('a/1.jpg,0\n"a/2.jpg,0\na/3.jpg,1\n', "for a quote that is not closed"),
    ("a/1.jpg,0\na/2.jpg,0\na/1.jpg,0\n", "'a/1.jpg' is there 2 times"),
    ("a/1.jpg,0\na/2.jpg,0\na/1.jpg,1\n", "'a/1.jpg' is there 2 times"),
    ("a/1.jpg,0\nREADME,0\n", "line 2: 'README' is no name of an image"),
    ("a/1.jpg,0\na/2.jpg,20240101\n", "label 20240101 is no class number"),
])  # fmt: skip
def test_lists_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "val.csv").write_text(text)
    assert message in refused(tmp_path, "csv")
    (tmp_path / "val.csv").write_bytes(b"a/1.jpg,caf\xe9\n")
    assert "val.csv: cannot be read as a list" in refused(tmp_path, "csv")


def test_images_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "val-0.tar", [*IMAGES, IMAGES[0]])
    assert "val-0.tar: 'cat/0.jpg' is there 2 times" in refused(tmp_path, "tar")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(tmp_path / "val.zip", [*IMAGES, IMAGES[0]])
    assert "val.zip: 'cat/0.jpg' is there 2 times" in refused(tmp_path, "zip")


SIDE = [
    "cat/._0.jpg",
    "__MACOSX/cat/._1.jpg",
    ".thumbnails/cat/0.jpg",
    "dog/.cache/9.jpg",
    "cat/Thumbs.db",
    "cat/.DS_Store",
]


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_side_files_of_systems_are_no_images(tmp_path: Path, form: str) -> None:
    write = {"folder": write_folder, "zip": write_zip, "tar": write_tar}[form]
    write(tmp_path / {"folder": "val", "zip": "val.zip", "tar": "val-0.tar"}[form], [*SIDE, *IMAGES])
    records = scan(DataConfig(root=tmp_path, format=form), "val")
    assert sorted(names_in(tmp_path, form)) == sorted(IMAGES) and records.classes == ["cat", "dog"]


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind the superuser, under whom tests may run: the system's own answer is given instead."""
    write_folder(tmp_path / "val", IMAGES)
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "val/dog: the folder cannot be read (Permission denied)" in refused(tmp_path, "folder")


def test_links_to_nothing_and_in_a_circle_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "val", IMAGES)
    link = tmp_path / "val" / "bird"
    link.symlink_to(tmp_path / "nowhere")
    assert "val/bird: a link to nothing" in refused(tmp_path, "folder")
    link.unlink()
    for circle in (tmp_path / "val" / "cat" / "again", tmp_path / "val" / "bird"):
        circle.symlink_to(circle.parent)
        assert f"{circle}: a link to a folder that it lies in" in refused(tmp_path, "folder")
        circle.unlink()
    link.symlink_to(write_folder(tmp_path / "elsewhere", ["1.jpg"]))  # a class that lies elsewhere is right
    assert names_in(tmp_path, "folder")[0] == "bird/1.jpg"


def test_a_folder_that_has_changed_since_its_index_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "val", IMAGES)
    cfg = DataConfig(root=tmp_path, workers=0)
    save_index(scan(cfg, "val"), index_path(cfg, "val"), describe_source(cfg, "val"))
    build_eval_loader(cfg, img_size=8, batch_size=2)
    (tmp_path / "val" / "dog" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"val.folder.index lists 6 images, .*val has 5: delete it or build it again"):
        build_eval_loader(cfg, img_size=8, batch_size=2)


@pytest.mark.parametrize("names", [[str(number) for number in range(12)], ["20240101", "7", "007x"], ["a", "B", "10"]])
def test_all_forms_agree_on_the_order_of_classes(tmp_path: Path, names: list[str]) -> None:
    files = [f"{name}/x.jpg" for name in names]
    write_folder(tmp_path / "val", files)
    write_zip(tmp_path / "val.zip", files)
    write_tar(tmp_path / "val-0.tar", files)
    (tmp_path / "val.csv").write_text("".join(f"val/{file},{name}\n" for file, name in zip(files, names, strict=True)))
    found = [scan(DataConfig(root=tmp_path, format=form), "val") for form in ("folder", "zip", "tar", "csv")]
    wanted = names if len(names) == 12 else sorted(names)  # numbers by value
    assert [records.classes for records in found] == [wanted] * 4
    for records in found:
        assert [records.classes[label] for label in records.labels] == [
            records.name(index).split("/")[-2] for index in range(len(records))
        ]


def test_a_date_as_folder_is_one_class(tmp_path: Path) -> None:
    write_tar(tmp_path / "val-0.tar", ["20240101/a.jpg", "20240101/b.jpg"])
    assert scan(DataConfig(root=tmp_path, format="tar"), "val").classes == ["20240101"]
    archive_files.write_tar(tmp_path / "train-0.tar", {"a.jpg": jpeg(), "a.cls": b"20240101"})
    assert "label 20240101 is no class number" in refused(tmp_path, "tar", "train")


def test_folders_below_classes_are_of_their_class(tmp_path: Path) -> None:
    files = ["cat/indoor/1.jpg", "dog/outdoor/1.jpg", "dog/2.jpg"]
    write_folder(tmp_path / "val", files)
    write_zip(tmp_path / "val.zip", [f"val/{name}" for name in files])
    write_tar(tmp_path / "val-0.tar", [f"some/prefix/{name}" for name in files])
    for form in ("folder", "zip", "tar"):
        records = scan(DataConfig(root=tmp_path, format=form), "val")
        assert (records.classes, records.labels.tolist()) == (["cat", "dog"], [0, 1, 1])


def test_names_may_hold_blanks(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("great white shark\ngreat grey owl\n\n")
    assert load_classes(str(path)).names == ["great white shark", "great grey owl"]
    path.write_text("a\n\nb\n")
    with pytest.raises(UserError, match=r"names.txt: line 2 is empty"):
        load_classes(str(path))
    path.write_text("a\nb\na\n")
    with pytest.raises(UserError, match=r"line 3 repeats 'a'"):
        load_classes(str(path))
    assert sort_classes(["b", "a", "10", "9"]) == ["10", "9", "a", "b"]


def turned_jpeg(path: Path, orientation: int) -> None:
    """Left half red, right half blue as the file has it; upright it is another picture."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 0] = pixels[:, 8:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95, exif=exif)


def test_pictures_are_turned_by_their_exif_where_that_is_wanted(tmp_path: Path) -> None:
    for split in ("train", "val"):
        turned_jpeg(tmp_path / split / "a" / "1.jpg", 1)
        turned_jpeg(tmp_path / split / "a" / "2.jpg", 6)  # a quarter turn to the right: red comes on top

    def colours(exif: bool) -> list[list[int]]:
        cfg = DataConfig(root=tmp_path, workers=0, exif=exif, mean=(0.0,), std=(1.0,), eval_crop="none")
        loader = build_eval_loader(cfg, img_size=16, batch_size=2)
        assert loader.turned() == (1, 2)
        images = next(iter(loader)).images
        return [[int(image[0, y, x] > 0.5) for y, x in ((2, 2), (2, 13), (13, 2), (13, 13))] for image in images]

    assert colours(exif=False) == [[1, 0, 1, 0], [1, 0, 1, 0]]
    assert colours(exif=True) == [[1, 0, 1, 0], [1, 1, 0, 0]]
    cfg = DataConfig(root=tmp_path, workers=0, exif=True, fast_decode=True)
    assert build_train_loader(cfg, img_size=16, batch_size=2).turned() == (1, 2)
