"""Loaders for training and evaluation: the same batches for any number of workers, ranks and restarts."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch, Normalizer, RawBatch, Replacement
from data.classes import check_same_classes, load_classes
from data.config import DataConfig
from data.dataset import BatchDataset
from data.errors import CorruptImageError
from data.image_list import ImageList
from data.readers import Reader, open_reader, quick_classes
from data.rng import preserved_generators
from data.sampler import BatchKey, EvalSampler, TrainSampler
from data.transforms import EvalTransform, Size, TrainTransform, channel_values
from data.workers import WorkerPool
from models.errors import UserError


class _Pipeline:
    """What both loaders share: workers or none, normalisation, errors."""

    def __init__(self, cfg: DataConfig, dataset: BatchDataset, size: Size, batch_size: int) -> None:
        self.cfg = cfg
        self.dataset = dataset
        self.shape = (batch_size, cfg.channels, *size)
        mean, std = (channel_values(values, cfg.channels) for values in (cfg.mean, cfg.std))
        self._normalize = Normalizer(mean, std, pin_memory=cfg.pin_memory and torch.cuda.is_available())
        self.pool: WorkerPool | None = None
        if cfg.workers:
            self.pool = WorkerPool(
                dataset, workers=cfg.workers, prefetch=cfg.prefetch, timeout=cfg.timeout, shape=self.shape
            )

    def batches(self, keys: Iterable[BatchKey]) -> Iterator[Batch]:
        """Yield finished batches. Raises WorkerError, or CorruptImageError where the dataset could not help itself."""
        for raw in self.pool.run(keys) if self.pool else self._here(keys):
            if raw.error:
                raise CorruptImageError(raw.error)
            yield self._normalize(raw)

    def _here(self, keys: Iterable[BatchKey]) -> Iterator[RawBatch]:
        pixels = np.empty(self.shape, dtype=np.uint8)
        for key in keys:
            with preserved_generators():
                raw = self.dataset.make(key, pixels)
            raw.pixels = torch.from_numpy(pixels[: len(key.indices)])
            yield raw


class _Loader:
    """What both loaders tell about their images."""

    _pipeline: _Pipeline

    def __init__(self, cfg: DataConfig, reader: Reader) -> None:
        self.records: ImageList = reader.records
        self.dataset_name = cfg.dataset_name
        self.classes = reader.records.classes
        outputs = load_classes(cfg.classes).outputs if cfg.classes else None
        self.class_outputs: Tensor | None = None if outputs is None else torch.tensor(outputs)
        """Which outputs of a 1,000-class model the labels count, for data of fewer classes (ImageNet-A, -R)."""

    @property
    def num_images(self) -> int:
        """Number of images over all ranks."""
        return len(self.records)

    @property
    def num_classes(self) -> int:
        """Number of classes that the labels count."""
        return len(self.classes)

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self.records.name(index)

    @property
    def worker_pids(self) -> list[int]:
        """The process numbers of the running workers; empty before the first batch."""
        return self._pipeline.pool.pids if self._pipeline.pool else []

    def close(self) -> None:
        """End the workers. The loader can be used again; it then starts new ones."""
        if self._pipeline.pool:
            self._pipeline.pool.close()


class TrainLoader(_Loader):
    """Endless training data, one epoch at a time.

    `len()` is the number of batches of an epoch on this rank. `replaced` lists the unreadable images so far.
    """

    def __init__(self, cfg: DataConfig, reader: Reader, sampler: TrainSampler, transform: TrainTransform) -> None:
        super().__init__(cfg, reader)
        self.replaced: dict[int, Replacement] = {}
        self._allowed = math.floor(cfg.max_corrupt * len(reader.records))
        self._sampler = sampler
        dataset = BatchDataset(reader, transform, training=True)
        self._pipeline = _Pipeline(cfg, dataset, transform.size, sampler.batch_size)

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, exactly as an uninterrupted epoch would.

        Raises UserError when more than `data.max_corrupt` of the images cannot be read, WorkerError for
        a dead or silent worker.
        """
        self._sampler.set_epoch(epoch, start)
        for batch in self._pipeline.batches(self._sampler):
            self._count(batch)
            yield batch

    def _count(self, batch: Batch) -> None:
        self.replaced.update({entry.index: entry for entry in batch.replaced})
        if len(self.replaced) > self._allowed:
            last = list(self.replaced.values())[-1].reason
            raise UserError(
                f"{len(self.replaced)} of {self.num_images} training images cannot be read, above "
                f"data.max_corrupt={self._pipeline.cfg.max_corrupt:g}; the last: {last}"
            )


class EvalLoader(_Loader):
    """Each image exactly once over all ranks; `len()` is the number of batches of this rank (0 is possible)."""

    def __init__(self, cfg: DataConfig, reader: Reader, sampler: EvalSampler, transform: EvalTransform) -> None:
        super().__init__(cfg, reader)
        self._sampler = sampler
        dataset = BatchDataset(reader, transform, training=False)
        self._pipeline = _Pipeline(cfg, dataset, transform.size, sampler.batch_size)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches. Raises CorruptImageError naming the file that cannot be read."""
        return self._pipeline.batches(self._sampler)


def build_train_loader(
    cfg: DataConfig, *, img_size: int | Size, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0
) -> TrainLoader:
    """Build the training loader of a rank; `batch_size` is per rank. Raises UserError for bad input."""
    if cfg.mixup.enabled and batch_size % 2:
        raise UserError(f"a batch of {batch_size} per rank must be even: mixup mixes neighbours (data.mixup)")
    reader = open_reader(cfg, "train")
    sampler = TrainSampler(
        len(reader.records),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        repeats=cfg.augment.repeats,
    )
    return TrainLoader(cfg, reader, sampler, TrainTransform(cfg, img_size))


def build_eval_loader(
    cfg: DataConfig,
    *,
    img_size: int | Size,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    train_classes: list[str] | None = None,
) -> EvalLoader:
    """Build the evaluation loader of a rank over the val split.

    Its classes must be `train_classes` (`TrainLoader.classes`; by default those of a train split that can be
    listed at once). Raises UserError for bad input.
    """
    reader = open_reader(cfg, "val")
    expected = train_classes or quick_classes(cfg, "train")
    if expected and not cfg.classes:
        check_same_classes(expected, reader.records.classes)
    sampler = EvalSampler(len(reader.records), batch_size=batch_size, rank=rank, world_size=world_size)
    return EvalLoader(cfg, reader, sampler, EvalTransform(cfg, img_size))
