"""tools/prepare_imagenet.py on tiny archives of the official structure."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data import DataConfig, build_eval_loader, build_train_loader
from data.classes import match_classes
from data.prepare.sources import DEVKIT, TRAIN, VAL, ArchiveSource, Entry, ground_truth, open_source
from data.prepare.writers import WRITERS
from data.readers import index_path, open_reader
from models.errors import UserError
from tools.prepare_imagenet import main

SYNSETS = ["n01443537", "n01440764", "n01484850"]  # as the devkit may list them: not sorted
FORMS = ["folder", "zip", "tar", "csv"]


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes with 4 training images each and 6 validation images of classes 2, 1, 3, 3, 2, 1."""
    root = tmp_path_factory.mktemp("archives")
    with tarfile.open(root / TRAIN, "w") as outer:
        for label, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for number in range(4):
                    add(images, f"{synset}_{number * 7}.JPEG", jpeg(100 * label + number))
            add(outer, f"{synset}.tar", inner.getvalue())
    with tarfile.open(root / VAL, "w") as images:
        for number in range(6):
            add(images, f"ILSVRC2012_val_{number + 1:08d}.JPEG", jpeg(900 + number))
    write_devkit(root / DEVKIT, [2, 1, 3, 3, 2, 1])
    return root


def write_devkit(path: Path, truth: list[int]) -> None:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number + 1, synset, 0) for number, synset in enumerate(SYNSETS)] + [(4, "n00001740", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        lines = "".join(f"{number}\n" for number in truth).encode()
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", lines)


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--jobs", "1"])


@pytest.mark.parametrize("form", FORMS)
def test_each_form_trains_alike(archives: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture):
    assert run(archives, tmp_path / form, "--form", form, "--json") == 0
    train, val = json.loads(capsys.readouterr().out)
    assert (train["images"], train["classes"], train["smallest"], train["largest"]) == (12, 3, 4, 4)
    assert (val["images"], val["unreadable"], val["is_imagenet"]) == (6, [], False)
    assert train["synsets"] == "3 of the 1000 ImageNet-1K synsets, in their order"
    cfg = DataConfig(root=tmp_path / form, format=form, workers=0)
    assert index_path(cfg, "train").is_file()
    loader = build_eval_loader(cfg, img_size=8, batch_size=6)
    names = [loader.name(index).split("/")[-1] for index in range(6)]
    (batch,) = loader
    label = {name: int(target) for name, target in zip(names, batch.targets, strict=True)}
    truth = [SYNSETS[number - 1] for number in (2, 1, 3, 3, 2, 1)]
    expected = [sorted(SYNSETS).index(synset) for synset in truth]
    assert [label[f"ILSVRC2012_val_{number:08d}.JPEG"] for number in range(1, 7)] == expected
    assert next(build_train_loader(cfg, img_size=8, batch_size=12).epoch(0)).targets.bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize("form", FORMS)
def test_classes_of_nested_folders_keep_their_names(tmp_path: Path, form: str):
    """Validation lacks a class, so that numbers of its own would call an owl a dog."""
    for split, classes in (("train", ("cat", "dog", "owl")), ("val", ("cat", "owl"))):
        for number, name in enumerate(f"{kind}/{part}" for kind in classes for part in ("a,b", "c")):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
    out = tmp_path / form
    assert run(tmp_path / "source", out, "--form", form) == 0
    cfg = DataConfig(root=out, format=form, workers=0)
    train, val = (open_reader(cfg, split).records for split in ("train", "val"))
    assert (train.classes, train.numbered) == (["cat", "dog", "owl"], False)
    matched = match_classes(val, train.classes, "the model")
    for index, label in enumerate(matched.labels.tolist()):
        assert f"{train.classes[label]}/" in matched.name(index)


class Interrupted(Exception):
    pass


class StopsAfter:
    """A source that fails after some reads, as a killed process would."""

    def __init__(self, source: ArchiveSource, reads: int) -> None:
        self.source, self.left = source, reads

    def read(self, split, entry: Entry) -> bytes:
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        return self.source.read(split, entry)

    def entries(self, split) -> list[Entry]:
        return self.source.entries(split)


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_build_continues_to_the_same_bytes(
    archives: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("data.prepare.writers._FLUSH_IMAGES", 2)
    source = ArchiveSource(archives)
    entries = source.entries("train")

    def write(reader, folder: str) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        options = {"shard_images": 5} if form == "tar" else {}
        WRITERS[form](reader, "train", entries, tmp_path / folder, lambda count: None, **options)

    write(source, "whole")
    for reads in (1, 5, 3):
        with pytest.raises(Interrupted):
            write(StopsAfter(source, reads), "parts")
    write(source, "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    write(StopsAfter(source, 0), "parts")  # a finished build reads nothing again


def test_a_torn_journal_of_a_zip_is_survived(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.prepare.writers._FLUSH_IMAGES", 2)
    source = ArchiveSource(archives)
    entries = source.entries("train")
    for folder, tears in (("whole", False), ("torn", True)):
        (tmp_path / folder).mkdir()
        if tears:
            with pytest.raises(Interrupted):
                WRITERS["zip"](StopsAfter(source, 7), "train", entries, tmp_path / folder, lambda count: None)
            journal = tmp_path / folder / ".train.zip.journal"
            journal.write_text(journal.read_text()[:-20])
        WRITERS["zip"](source, "train", entries, tmp_path / folder, lambda count: None)
    assert content(tmp_path / "torn") == content(tmp_path / "whole")


@pytest.mark.parametrize("form", FORMS)
def test_unreadable_images_are_listed(archives: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture):
    assert run(archives, tmp_path / "folder", "--form", "folder") == 0
    broken = tmp_path / "folder/train/n01440764/n01440764_7.JPEG"
    broken.write_bytes(broken.read_bytes()[:-300])
    assert run(tmp_path / "folder", tmp_path / "out", "--form", form) == 1
    assert "unreadable files: 1" in capsys.readouterr().out
    assert "n01440764_7.JPEG" in (tmp_path / "out/train.unreadable.txt").read_text()


def test_source_and_out_may_be_the_same(image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "train").symlink_to(image_folder / "train")
    (tmp_path / "val").symlink_to(image_folder / "val")
    assert run(tmp_path, tmp_path, "--check", "headers") == 0
    assert "other classes than ImageNet-1K, e.g. class_0" in capsys.readouterr().out
    assert (tmp_path / "train.folder.index").is_file()


def test_bad_sources_are_named(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(tmp_path, tmp_path / "out") == 2
    assert f"{tmp_path} holds neither {TRAIN}" in capsys.readouterr().err
    (tmp_path / VAL).write_bytes(b"no tar" * 1000)
    (tmp_path / DEVKIT).write_bytes((archives / DEVKIT).read_bytes())
    assert run(tmp_path, tmp_path / "out", "--split", "val") == 2
    assert "not a readable tar file" in capsys.readouterr().err
    write_devkit(tmp_path / DEVKIT, [9])
    with pytest.raises(UserError, match="names class 9"):
        ground_truth(tmp_path / DEVKIT)


@pytest.mark.parametrize("name", ["../../evil.JPEG", "/etc/evil.JPEG"])
def test_members_that_lead_outside_are_refused(archives: Path, tmp_path: Path, name: str):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as images:
        add(images, name, jpeg(1))
    with tarfile.open(tmp_path / TRAIN, "w") as outer:
        add(outer, "n01440764.tar", inner.getvalue())
    with pytest.raises(UserError, match="leads outside"):
        open_source(tmp_path).entries("train")
    with tarfile.open(tmp_path / TRAIN, "w") as outer:
        add(outer, "../../etc.tar", b"")
    with pytest.raises(UserError, match="is not the archive of a class"):
        open_source(tmp_path).entries("train")


def test_the_command_itself(archives: Path, tmp_path: Path):
    tool = Path(__file__).parents[2] / "tools/prepare_imagenet.py"
    command = [sys.executable, str(tool), str(archives), str(tmp_path / "out"), "--form", "zip", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "train: 12 images in 3 classes (4 to 4 a class)" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "train.zip",
        "train.zip.index",
        "train_map.txt",
        "val.zip",
        "val.zip.index",
        "val_map.txt",
    ]
