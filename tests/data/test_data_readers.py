"""The forms of one data set give the same batches; bad names, bombs and mismatches are refused."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataConfig, build_eval_loader, build_train_loader
from data.index import save_index
from data.readers import describe_source, index_path, list_images, open_reader, scan
from data.readers.archives import ZipReader
from models.errors import UserError
from tests.archive_files import write_zip
from tests.parquet_files import write_parquet

FORMATS = ["folder", "zip", "tar", "csv", "parquet"]


@pytest.fixture(scope="session")
def all_forms(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image folder again as zip (stored and deflated), two tar shards, CSV and parquet shards, in one root."""
    root = tmp_path_factory.mktemp("forms")
    for split in ("train", "val"):
        (root / split).symlink_to(image_folder / split)
        files = sorted((image_folder / split).rglob("*.jpg"))
        names = [file.relative_to(image_folder / split).as_posix() for file in files]
        labels = [int(name[6]) for name in names]
        with zipfile.ZipFile(root / f"{split}.zip", "w") as archive:
            for number, (file, name) in enumerate(zip(files, names, strict=True)):
                archive.write(file, name, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
        pairs = list(zip(names, labels, strict=True))
        (root / f"{split}_map.txt").write_text("".join(f"{name}\t{label}\n" for name, label in pairs))
        (root / f"{split}.csv").write_text(
            "path,label\n" + "".join(f"{split}/{name},{label}\n" for name, label in pairs)
        )
        for shard in range(2):
            with tarfile.open(root / f"{split}-{shard}.tar", "w") as archive:
                for file, name in list(zip(files, names, strict=True))[
                    shard * 10 : (shard + 1) * 10 if shard == 0 else None
                ]:
                    archive.add(file.resolve(), name)
        images = [(file.read_bytes(), name, label) for file, (name, label) in zip(files, pairs, strict=True)]
        for shard, part in enumerate((images[:10], images[10:])):
            path = root / "data" / f"{'train' if split == 'train' else 'validation'}-{shard:05d}-of-00002.parquet"
            write_parquet(path, part, names=["class_0", "class_1", "class_2"], rows=4)
    return root


def config(root: Path, form: str, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "format": form, "workers": 0, **changes})


def first_batches(cfg: DataConfig) -> list[torch.Tensor]:
    train = build_train_loader(cfg, img_size=40, batch_size=6, seed=2)
    val = build_eval_loader(cfg, img_size=40, batch_size=6, outputs=train.classes)
    batches = [next(iter(train.epoch(0))), *val]
    train.close()
    val.close()
    return [tensor for batch in batches for tensor in (batch.images, batch.targets, batch.indices)]


@pytest.mark.parametrize("form", FORMATS[1:])
@pytest.mark.parametrize("indexed", [False, True])
def test_forms_give_the_same_batches(all_forms: Path, tmp_path: Path, form: str, indexed: bool):
    cfg = config(all_forms, form, index=tmp_path)
    if indexed:
        for split in ("train", "val"):
            save_index(scan(cfg, split), index_path(cfg, split), describe_source(cfg, split))
    for ours, folder in zip(first_batches(cfg), first_batches(config(all_forms, "folder")), strict=True):
        assert ours.equal(folder)


@pytest.mark.parametrize("form", FORMATS)
def test_readers_survive_pickling_and_workers(all_forms: Path, tmp_path: Path, form: str):
    cfg = config(all_forms, form, index=tmp_path)
    save_index(scan(cfg, "train"), index_path(cfg, "train"), describe_source(cfg, "train"))
    reader = open_reader(cfg, "train")
    reader.open(0)
    packed = pickle.dumps(reader)
    assert len(packed) < 2000  # the list itself does not travel
    again = pickle.loads(packed)
    assert again.open(30).data == reader.open(30).data
    expected = first_batches(cfg)
    for ours, wanted in zip(first_batches(config(all_forms, form, index=tmp_path, workers=2)), expected, strict=True):
        assert ours.equal(wanted)


def test_an_index_is_refused_when_the_labels_beside_a_zip_have_changed(tmp_path: Path):
    write_zip(tmp_path / "train.zip", {"0.jpg": jpeg(), "1.jpg": jpeg()})
    cfg, labels = config(tmp_path, "zip"), tmp_path / "train_map.txt"
    labels.write_text("0.jpg\t0\n1.jpg\t1\n")
    save_index(scan(cfg, "train"), index_path(cfg, "train"), describe_source(cfg, "train"))
    assert list_images(cfg, "train").labels.tolist() == [0, 1]
    labels.write_text("0.jpg\t1\n1.jpg\t0\n")  # as long as before
    with pytest.raises(UserError, match="belongs to other data"):
        list_images(cfg, "train")
    index_path(cfg, "train").unlink()
    assert list_images(cfg, "train").labels.tolist() == [1, 0]


def test_an_index_of_other_data_is_refused(all_forms: Path, tmp_path: Path):
    cfg = config(all_forms, "zip", index=tmp_path)
    save_index(scan(cfg, "train"), index_path(cfg, "train"), describe_source(cfg, "val"))
    with pytest.raises(UserError, match="belongs to other data"):
        list_images(cfg, "train")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_index_is_refused(all_forms: Path, tmp_path: Path, damage: str):
    cfg = config(all_forms, "zip", index=tmp_path)
    path = index_path(cfg, "train")
    save_index(scan(cfg, "train"), path, describe_source(cfg, "train"))
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "garbage": b"\x80\x04pickle" * 99, "empty": b""}[damage])
    with pytest.raises(UserError, match="not an index file"):
        list_images(cfg, "train")


def jpeg(size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../a/x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\\..\\x.jpg"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        archive.writestr(info, jpeg())
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(jpeg())
        archive.addfile(member, io.BytesIO(jpeg()))
    (tmp_path / "train.csv").write_text(f"{name},0\n")
    for form in ("zip", "tar", "csv"):
        with pytest.raises(UserError, match="leads outside"):
            open_reader(config(tmp_path, form), "train")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, kind: bytes):
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        member = tarfile.TarInfo("a/x.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="link or a device"):
        open_reader(config(tmp_path, "tar"), "train")


def test_symbolic_links_in_zip_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        info = zipfile.ZipInfo("a/x.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="symbolic link"):
        open_reader(config(tmp_path, "zip"), "train")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.readers.archives.MAX_FILE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.jpg", bytes(2 << 20))
    with pytest.raises(UserError, match="decompression bomb"):
        open_reader(config(tmp_path, "zip"), "train")


def test_a_zip_member_that_is_larger_than_it_claims_is_not_unpacked(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.jpg", bytes(5 << 20))
    records = scan(config(tmp_path, "zip"), "train")
    records.extra["size"][0] = 100
    with pytest.raises(UserError, match="does not fit its checksum"):
        ZipReader(tmp_path / "train.zip", 10**6, records).open(0)


def test_an_image_bomb_is_refused(tmp_path: Path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("1", (18_000, 20_000)).save(tmp_path / "train" / "a" / "bomb.png")
    assert (tmp_path / "train" / "a" / "bomb.png").stat().st_size < 200_000
    with pytest.raises(UserError, match=r"bomb.png.*data.max_pixels|bomb.png.*decompression"):
        open_reader(config(tmp_path, "folder"), "train").open(0)
    (tmp_path / "train" / "a" / "bomb.png").write_bytes(jpeg((40, 30)))
    with pytest.raises(UserError, match=r"40 x 30 pixels are above data.max_pixels 1000"):
        open_reader(config(tmp_path, "folder", max_pixels=1000), "train").open(0)


def test_classes_of_val_are_those_of_train_by_name(image_folder: Path, tmp_path: Path):
    (tmp_path / "train").symlink_to(image_folder / "train")
    (tmp_path / "val" / "class_1").mkdir(parents=True)
    (tmp_path / "val" / "class_1" / "x.jpg").write_bytes(jpeg())
    loader = build_eval_loader(config(tmp_path, "folder"), img_size=40, batch_size=2)
    assert next(iter(loader)).targets.tolist() == [1] and loader.num_classes == 3
    assert loader.empty_classes == ["class_0", "class_2"]
    (tmp_path / "val" / "klass_1").mkdir()
    with pytest.raises(UserError, match=r"1 of 2 classes that the training split does not: 'klass_1'; its 3 classes"):
        build_eval_loader(config(tmp_path, "folder"), img_size=40, batch_size=2)


def test_imagenet_a_and_v2_classes(tmp_path: Path):
    for split, names in {"a": ["n01498041", "n01531178"], "v2": ["0", "10", "9"]}.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "x.jpg").write_bytes(jpeg())
    loader = build_eval_loader(config(tmp_path, "folder", val="a", classes="imagenet_a"), img_size=8, batch_size=2)
    assert next(iter(loader)).targets.tolist() == [6, 11]  # ImageNet's numbers of the two synsets
    assert loader.num_classes == 1000 and len(loader.empty_classes) == 198
    assert loader.class_outputs is not None and loader.class_outputs[:2].tolist() == [6, 11]
    loader = build_eval_loader(config(tmp_path, "folder", val="v2", classes="imagenet_v2"), img_size=8, batch_size=3)
    assert next(iter(loader)).targets.tolist() == [0, 9, 10]
    assert loader.class_outputs is None and loader.num_classes == 1000
    with pytest.raises(UserError, match=r"class '0' of the data is not in data.classes"):
        build_eval_loader(config(tmp_path, "folder", val="v2", classes="imagenet_r"), img_size=8, batch_size=3)
    with pytest.raises(UserError, match="neither imagenet, imagenet_a"):
        build_eval_loader(config(tmp_path, "folder", val="v2", classes="imagenet_x"), img_size=8, batch_size=3)


def test_webdataset_shards(tmp_path: Path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for key, label in (("a", b"2"), ("b", b"0")):
            for suffix, content in ((".jpg", jpeg()), (".cls", label)):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    records = scan(config(tmp_path, "tar"), "train")
    assert records.labels.tolist() == [2, 0] and records.classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, "data.root is missing"),
        ({"root": Path("/nowhere")}, "data.root: there is no folder /nowhere"),
        ({"train": "trian"}, "there is no folder .*trian"),
        ({"format": "zip", "train": "x.zip"}, "there is no zip file"),
        ({"format": "tar", "train": "x-*.tar"}, "there are no tar shards"),
        ({"format": "csv", "train": "x.csv"}, "there is no CSV file"),
        ({"format": "parquet"}, r"there are no parquet shards .*data/train-\*\.parquet"),
    ],
)
def test_wrong_paths_are_named(image_folder: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        build_train_loader(DataConfig(**{"root": image_folder, **changes}), img_size=40, batch_size=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/x.jpg,0\nb/y.jpg\n", "line 2: expected a path and a label, found 1"),
        ("a/x.jpg,99999999999\n", "is no class number"),
        ("path,label\n", "lists no images"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        scan(config(tmp_path, "csv"), "train")


def test_a_folder_without_images(tmp_path: Path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        open_reader(config(tmp_path, "folder"), "train")


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_of_the_training_images_is_fixed_and_takes_each_class_alike(all_forms: Path, form: str) -> None:
    whole = build_train_loader(config(all_forms, form), img_size=32, batch_size=2)
    part = build_train_loader(config(all_forms, form, train_images=7), img_size=32, batch_size=2)
    counts = torch.bincount(torch.tensor(part.records.labels.tolist()), minlength=part.num_classes)
    assert part.num_images == 7 and part.classes == whole.classes
    assert counts.max() - counts.min() <= 1
    names = [part.name(index) for index in range(7)]
    assert names == sorted(names, key=[whole.name(index) for index in range(whole.num_images)].index)
    other_seed = build_train_loader(config(all_forms, form, train_images=7), img_size=32, batch_size=2, seed=9)
    assert [other_seed.name(index) for index in range(7)] == names
    batch = next(iter(part.epoch(0)))
    labels = dict(zip(names, part.records.labels.tolist(), strict=True))
    assert [labels[part.name(index)] for index in batch.indices.tolist()] == batch.targets.tolist()
    assert not part.replaced


@pytest.mark.parametrize("form", FORMATS)
def test_held_out_images_are_evaluated_on_and_not_trained_on(all_forms: Path, form: str) -> None:
    whole = build_train_loader(config(all_forms, form), img_size=32, batch_size=2)
    cfg = config(all_forms, form, held_out=6)
    train, val = build_train_loader(cfg, img_size=32, batch_size=2), build_eval_loader(cfg, img_size=32, batch_size=2)
    names = [[loader.name(index) for index in range(loader.num_images)] for loader in (whole, train, val)]
    assert len(names[2]) == 6 and sorted(names[1] + names[2]) == sorted(names[0])
    assert np.bincount(val.records.labels).max() - np.bincount(val.records.labels).min() <= 1
    assert val.classes == train.classes == whole.classes
    assert sum(len(batch.targets) for batch in val) == 6  # opened where they lie, in the training split
    assert "6 held out" in val.dataset_name


def test_a_part_larger_than_a_class_is_refused(all_forms: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train_images=900: takes \d+ images of 'class_0', which has \d+"):
        build_train_loader(config(all_forms, "folder", train_images=900), img_size=32, batch_size=2)
    with pytest.raises(UserError, match=r"data\.held_out=900: takes \d+ images of 'class_0', which has \d+"):
        build_eval_loader(config(all_forms, "folder", held_out=900), img_size=32, batch_size=2)
    whole = open_reader(config(all_forms, "folder"), "train").records
    smallest = int(np.bincount(whole.labels).min()) * len(whole.classes)
    with pytest.raises(UserError, match=rf"data\.held_out={smallest}: takes every image of 'class_0'.* trained on"):
        build_train_loader(config(all_forms, "folder", held_out=smallest), img_size=32, batch_size=2)
    for key in ("train_images", "held_out"):
        with pytest.raises(ValueError, match=f"{key}: mnist5k is always used whole"):
            DataConfig(format="mnist5k", **{key: 100})
