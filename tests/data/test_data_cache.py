"""Pictures kept in memory give the same batches to the last bit, and are refused where they do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from data import DataConfig, build_eval_loader, build_train_loader
from data import cache as caching
from data.batch import Batch, Normalizer, RawBatch
from data.errors import CorruptImageError
from data.sampler import BatchKey
from data.transforms import padded_crop
from data.upload import Upload
from models.errors import UserError

SIZES = [(32, 32), (32, 32), (40, 20), (9, 35), (50, 60), (32, 32)]  # width, height


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small JPEGs and PNGs of several sizes; one is grey, one is turned by its EXIF, one is cut off in training."""
    root = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(3)
    for split, count in (("train", 36), ("val", 12)):
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            path = root / split / f"class_{number % 3}" / f"{number}.{'png' if number % 4 == 3 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = 6
            image.convert("L" if number == 5 else "RGB").save(path, **({"exif": exif} if number == 8 else {}))
    broken = root / "train" / "class_1" / "13.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    return root


def config(root: Path, cache: str, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "workers": 0, "cache": cache, "max_corrupt": 0.1, **changes})


def batches(cfg: DataConfig, size: int = 32) -> list[Batch]:
    """Two epochs of training, the second from its middle on, and validation."""
    train = build_train_loader(cfg, img_size=size, batch_size=8, seed=4)
    val = build_eval_loader(cfg, img_size=size, batch_size=5, outputs=train.classes)
    found = [*train.epoch(0), *train.epoch(3, start=2), *val]
    train.close()
    val.close()
    return found


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(
        mine.images.equal(its.images)
        and mine.targets.equal(its.targets)
        and mine.indices.equal(its.indices)
        and mine.replaced == its.replaced
        for mine, its in zip(ours, theirs, strict=True)
    )


PLAIN = {"auto_augment": None, "color_jitter": 0, "erase_prob": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": PLAIN},
        {"augment": {"vflip": 0.5}, "workers": 2},
        {
            "augment": {**PLAIN, "repeats": 3, "padding": 0, "erase_prob": 1},
            "channels": 1,
            "mean": (0.5,),
            "std": (0.2,),
        },
        {"augment": {"crop": "resized"}, "fast_decode": False, "exif": True, "train_images": 27},
    ],
)
def test_the_batches_are_the_same_to_the_last_bit(pictures: Path, changes: dict) -> None:
    cached, plain = (batches(config(pictures, cache, **changes)) for cache in ("memory", "none"))
    assert len(cached) == (4 + 2 if "train_images" not in changes else 3 + 1) + 3
    assert same(cached, plain) and any(batch.replaced for batch in cached)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_read_after_the_start(pictures: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "copy"
    shutil.copytree(pictures, root)
    wanted = batches(config(pictures, "none"))
    train = build_train_loader(config(root, "memory", workers=workers), img_size=32, batch_size=8, seed=4)
    first = list(train.epoch(0))
    shutil.rmtree(root)
    again = list(train.epoch(3, start=2))
    train.close()
    for mine, its in zip([*first, *again], wanted, strict=False):
        assert mine.images.equal(its.images)


def test_evaluation_names_the_broken_file(pictures: Path) -> None:
    cfg = config(pictures, "memory", val="train")
    with pytest.raises(CorruptImageError, match=r"13\.jpg: not a readable image"):
        list(build_eval_loader(cfg, img_size=32, batch_size=5))


def test_turned_pictures_are_still_counted(pictures: Path) -> None:
    loader = build_train_loader(config(pictures, "memory"), img_size=32, batch_size=8)
    assert loader.turned() == (1, 36)


def test_what_does_not_fit_is_refused_with_the_numbers(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = sum(width * height for width, height in SIZES) * 2  # of 12 pictures, in 3 channels
    build = lambda: build_eval_loader(config(pictures, "memory"), img_size=32, batch_size=5)  # noqa: E731
    monkeypatch.setattr(caching, "free_memory", lambda: pixels * 3 * 2)
    build()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"12 decoded pictures take 0 MB in each of 2 processes, 0 MB are free"):
        build()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(caching, "free_memory", lambda: pixels * 3)
    with pytest.raises(UserError, match=r"data.cache=memory: .* use data.cache=none"):
        build()
    monkeypatch.setattr(caching, "free_memory", lambda: None)  # where nothing tells, it is tried
    build()


def test_free_memory_is_that_of_the_machine_or_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\n")
    monkeypatch.setattr(caching, "_MEMINFO", meminfo)
    monkeypatch.setattr(caching, "_CGROUP", tmp_path)
    assert caching.free_memory() == 4000 * 1024
    for name, text in (("current", "900000\n"), ("stat", "anon 1\ninactive_file 300000\n"), ("max", "max\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert caching.free_memory() == 4000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert caching.free_memory() == 1_000_000 - 900_000 + 300_000
    monkeypatch.setattr(caching, "_MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert caching.free_memory() is None


def test_crops_out_of_files_are_not_cached(pictures: Path) -> None:
    with pytest.raises(UserError, match=r"use data.augment.crop=padded or data.fast_decode=false"):
        build_train_loader(config(pictures, "memory"), img_size=40, batch_size=8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50), (70, 33), (5, 7), (24, 24)])
@pytest.mark.parametrize("padding", [0, 4, 45])
@pytest.mark.parametrize("channels", [1, 3])
def test_padded_crops_are_torchvisions(height: int, width: int, padding: int, channels: int) -> None:
    picture = np.random.default_rng(0).integers(1, 256, (channels, height, width), dtype=np.uint8)
    theirs = transforms.RandomCrop((32, 24), padding=padding, pad_if_needed=True)
    for seed in range(20):
        torch.manual_seed(seed)
        wanted = theirs(torch.from_numpy(picture)).numpy()
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert np.array_equal(padded_crop(picture, (32, 24), padding), wanted)
        assert torch.rand(1) == after  # as many draws


def test_a_batch_of_small_pictures_is_normalised_as_each_alone() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (101, 3, 32, 32), dtype=np.uint8))
    key = BatchKey(0, 0, 0, np.arange(101), np.zeros(101))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.1])
    normalise = Normalizer(tuple(mean.tolist()), tuple(std.tolist()), Upload(torch.device("cpu"), pin_memory=False))
    whole = normalise(RawBatch(key, [0] * 101, pixels=pixels)).images
    wanted = (pixels.double() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    assert (whole - wanted).abs().max() < 1e-5
    for number in (0, 41, 42, 43, 100):
        one = BatchKey(0, 0, 0, np.array([number]), np.zeros(1))
        assert normalise(RawBatch(one, [0], pixels=pixels[number : number + 1])).images.equal(
            whole[number : number + 1]
        )
