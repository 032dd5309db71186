"""The batches do not depend on workers, ranks or restarts."""

from pathlib import Path

import pytest
import torch

from data import Batch, DataConfig, build_eval_loader, build_train_loader
from models.errors import UserError


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "workers": 0, **changes})


def epoch(cfg: DataConfig, number: int = 0, start: int = 0, seed: int = 3, **kwargs) -> list[Batch]:
    loader = build_train_loader(cfg, **{"img_size": 48, "batch_size": 4, "seed": seed, **kwargs})
    batches = list(loader.epoch(number, start=start))
    loader.close()
    return batches


def same(first: list[Batch], second: list[Batch]) -> bool:
    def equal(a: Batch, b: Batch) -> bool:
        return a.position == b.position and all(
            getattr(a, field).equal(getattr(b, field)) for field in ("images", "targets", "indices")
        )

    return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(image_folder: Path, workers: int):
    assert same(epoch(config(image_folder)), epoch(config(image_folder, workers=workers)))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch(image_folder: Path, workers: int):
    whole = epoch(config(image_folder), number=2)
    for start in range(len(whole) + 1):
        assert same(whole[start:], epoch(config(image_folder, workers=workers), number=2, start=start))


def test_one_loader_serves_epochs_in_any_order_and_after_a_break(image_folder: Path):
    loader = build_train_loader(config(image_folder, workers=2), img_size=48, batch_size=4, seed=3)
    interrupted = loader.epoch(0)
    next(interrupted)
    assert same(list(loader.epoch(1)), epoch(config(image_folder), number=1))
    assert same(list(loader.epoch(0)), epoch(config(image_folder), number=0))
    loader.close()


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 2), (4, 1)])
def test_ranks_see_the_same_samples_in_the_same_order(image_folder: Path, ranks: int, batch_size: int):
    cfg = config(image_folder, mixup={"prob": 0})
    single = epoch(cfg, batch_size=4)
    parts = [epoch(cfg, batch_size=batch_size, rank=rank, world_size=ranks) for rank in range(ranks)]
    for step, whole in enumerate(single):
        assert torch.cat([part[step].images for part in parts]).equal(whole.images)
        assert torch.cat([part[step].indices for part in parts]).equal(whole.indices)


def test_epochs_and_seeds_differ(image_folder: Path):
    first = epoch(config(image_folder))
    assert not same(first, epoch(config(image_folder), number=1))
    assert not same(first, epoch(config(image_folder), seed=4))
    indices = torch.cat([batch.indices for batch in first])
    assert len(indices.unique()) == len(indices) == 40  # 42 images, the last 2 do not fill a batch


def test_the_generators_of_the_caller_are_untouched(image_folder: Path):
    for workers in (0, 1):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        epoch(config(image_folder, workers=workers))
        assert torch.rand(3).equal(expected)


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_evaluation_sees_each_image_once(image_folder: Path, world_size: int):
    seen = []
    for rank in range(world_size):
        loader = build_eval_loader(config(image_folder), img_size=48, batch_size=4, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [index for batch in batches for index in batch.indices.tolist()]
    assert sorted(seen) == list(range(21))


def test_too_few_images_for_a_batch(image_folder: Path):
    with pytest.raises(UserError, match="42 training images do not fill one batch of 22 on each of 2 ranks"):
        build_train_loader(config(image_folder), img_size=48, batch_size=22, world_size=2)


def test_odd_batch_with_mixup(image_folder: Path):
    with pytest.raises(UserError, match="even"):
        build_train_loader(config(image_folder), img_size=48, batch_size=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_is_kept_is_not_overwritten(image_folder: Path, workers: int):
    """Memory of earlier batches is reused only where nothing refers to it: not a batch, a view or a numpy array."""
    loader = build_train_loader(config(image_folder, workers=workers), img_size=48, batch_size=4, seed=3)
    kept = []
    for number, batch in enumerate(loader.epoch(0)):
        part = (batch.images, batch.images[1:3, :1], batch.images.numpy(), batch.images.detach())[number % 4]
        kept.append((part, torch.as_tensor(part).clone()))
    loader.close()
    assert all(torch.as_tensor(part).equal(copy) for part, copy in kept)


def test_memory_is_reused_when_batches_are_dropped(image_folder: Path):
    loader = build_train_loader(config(image_folder), img_size=48, batch_size=4, seed=3)
    places = {batch.images.data_ptr() for batch in loader.epoch(0)}
    assert len(places) <= 3


def test_a_part_of_the_evaluation_is_fixed_drawn_from_all_and_lies_in_each_larger_one(image_folder: Path):
    cfg = config(image_folder)

    def images_of(**options) -> dict[str, tuple[torch.Tensor, int]]:
        loader = build_eval_loader(cfg, img_size=48, batch_size=4, **options)
        return {
            loader.name(index): (image, label)
            for batch in loader
            for index, image, label in zip(batch.indices.tolist(), batch.images, batch.targets.tolist(), strict=True)
        }

    whole = images_of()
    parts = {count: images_of(images=count) for count in (5, 9, 21)}
    assert {count: len(part) for count, part in parts.items()} == {5: 5, 9: 9, 21: 21}
    assert parts[5].keys() < parts[9].keys() < parts[21].keys() == whole.keys()
    for part in parts.values():
        assert all(whole[name][0].equal(image) and whole[name][1] == label for name, (image, label) in part.items())
    assert {label for _, label in parts[9].values()} == {0, 1, 2}  # not the first class alone, seven images each
    ranks = [images_of(images=9, rank=rank, world_size=2).keys() for rank in range(2)]
    assert len(ranks[0]) + len(ranks[1]) == 9 and ranks[0] | ranks[1] == parts[9].keys()
    with pytest.raises(UserError, match=r"eval\.images: 22 images are wanted, there are 21"):
        images_of(images=22)
    with pytest.raises(UserError, match="mnist5k is always used whole"):
        build_eval_loader(DataConfig(format="mnist5k"), img_size=28, batch_size=4, images=5)
