"""Loaders for training and evaluation: the same batches for any number of workers, ranks and restarts."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch, Normalizer, RawBatch, Replacement
from data.cache import CachedReader
from data.classes import imagenet_classes, load_classes, match_classes, shown_names, without_images
from data.config import DataConfig
from data.dataset import BatchDataset
from data.decode import decode, is_turned
from data.errors import CorruptImageError
from data.image_list import ImageList, random_part
from data.readers import Reader, open_reader, quick_classes
from data.readers.folder import FolderReader
from data.rng import preserved_generators
from data.sampler import BatchKey, EvalSampler, TrainSampler
from data.transforms import EvalTransform, Size, TrainTransform, channel_values
from data.upload import Upload
from data.workers import WorkerPool
from models.errors import UserError

CPU = torch.device("cpu")


class _Pipeline:
    """What both loaders share: workers or none, normalisation, errors."""

    def __init__(
        self, cfg: DataConfig, dataset: BatchDataset, size: Size, batch_size: int, device: torch.device
    ) -> None:
        self.cfg = cfg
        self.dataset = dataset
        self.shape = (batch_size, cfg.channels, *size)
        mean, std = (channel_values(values, cfg.channels) for values in (cfg.mean, cfg.std))
        self._normalize = Normalizer(mean, std, Upload(device, pin_memory=cfg.pin_memory))
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
        self.reader = reader
        self.dataset_name = cfg.dataset_name
        self.classes = reader.records.classes
        """Names of the classes in label order."""

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

    def path(self, index: int) -> str:
        """Return where an image lies: the path of its file, or its name where it is inside another file."""
        name = self.name(index)
        return f"{self.reader.root}/{name}" if isinstance(self.reader, FolderReader) else name

    def turned(self, most: int = 300) -> tuple[int, int]:
        """How many pictures carry a turn in their EXIF, and of how many: all, or `most` spread evenly."""
        count = min(most, self.num_images)
        found = 0
        for number in range(count):
            with suppress(CorruptImageError):  # the loader says what to do about it
                found += is_turned(self.reader.open(number * self.num_images // count))
        return found, count

    def close(self) -> None:
        """End the workers. The loader can be used again; it then starts new ones."""
        if self._pipeline.pool:
            self._pipeline.pool.close()


class TrainLoader(_Loader):
    """Endless training data, one epoch at a time.

    `len()` is the number of batches of an epoch on this rank. `replaced` lists the unreadable images so far.
    """

    def __init__(
        self,
        cfg: DataConfig,
        reader: Reader,
        sampler: TrainSampler,
        transform: TrainTransform,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(cfg, reader)
        self.replaced: dict[int, Replacement] = {}
        self._allowed = math.floor(cfg.max_corrupt * len(reader.records))
        self._sampler = sampler
        self._pipeline = _Pipeline(cfg, _dataset(cfg, reader, transform), transform.size, sampler.batch_size, device)

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

    def take_up(self, listed: dict[str, str]) -> None:
        """Count images, by name, that an earlier part of the run has replaced, but for those that can be read now."""
        for index in range(self.num_images if listed else 0):
            if self.name(index) in listed:
                try:
                    decode(self.reader.open(index), self._pipeline.cfg.channels)
                except CorruptImageError as error:
                    self.replaced[index] = Replacement(index, index, str(error))

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

    def __init__(
        self,
        cfg: DataConfig,
        reader: Reader,
        sampler: EvalSampler,
        transform: EvalTransform,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(cfg, reader)
        given = load_classes(cfg.classes) if cfg.classes else None
        few = given.names if given is not None and given.restricted else None
        self.class_outputs: Tensor | None = None if few is None else torch.tensor([self.classes.index(c) for c in few])
        """The only outputs of a model that may be guessed, for data of fewer classes (ImageNet-A, -R)."""
        self.empty_classes = without_images(reader.records, few)
        """The classes without images."""
        self._sampler = sampler
        self._pipeline = _Pipeline(cfg, _dataset(cfg, reader, transform), transform.size, sampler.batch_size, device)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches. Raises CorruptImageError naming the file that cannot be read."""
        return self._pipeline.batches(self._sampler)


def _dataset(cfg: DataConfig, reader: Reader, transform: TrainTransform | EvalTransform) -> BatchDataset:
    """What makes the batches, from the reader or from its pictures in memory, which are upright already."""
    training, cached = isinstance(transform, TrainTransform), cfg.cache == "memory"
    source = CachedReader(reader, cfg.channels, exif=cfg.exif) if cached else reader
    return BatchDataset(source, transform, training=training, exif=cfg.exif and not cached)


def build_train_loader(
    cfg: DataConfig,
    *,
    img_size: int | Size,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    device: torch.device = CPU,
) -> TrainLoader:
    """Build the training loader of a rank, whose batches lie on `device`; `batch_size` is per rank.

    Raises UserError for bad input.
    """
    if cfg.mixup.enabled and batch_size % 2:
        raise UserError(f"a batch of {batch_size} per rank must be even: mixup mixes neighbours (data.mixup)")
    transform = TrainTransform(cfg, img_size)
    if cfg.cache == "memory" and transform.resized and cfg.fast_decode:
        raise UserError(
            "data.cache=memory: crops that are resized come out of the files by data.fast_decode, with other pixels "
            "than from whole pictures; use data.augment.crop=padded or data.fast_decode=false"
        )
    reader = open_reader(cfg, "train")
    sampler = TrainSampler(
        len(reader.records),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        repeats=cfg.augment.repeats,
    )
    return TrainLoader(cfg, reader, sampler, transform, device)


def build_eval_loader(
    cfg: DataConfig,
    *,
    img_size: int | Size,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    outputs: list[str] | None = None,
    num_outputs: int | None = None,
    images: int | None = None,
    device: torch.device = CPU,
) -> EvalLoader:
    """Build the evaluation loader of a rank over the val split; labels are the model's output numbers.

    Args:
        outputs: the names of the model's classes, where they are known: from its weights, or `TrainLoader.classes`.
        num_outputs: how many it has, where they are not known.
        images: take a random part of this many; None: all.
        device: where the batches shall lie.

    Raises UserError for bad input, and where labels cannot be matched with the model's classes.
    """
    reader = open_reader(cfg, "val")
    whose = "the model"
    if outputs is None:
        outputs, whose = _assumed_outputs(cfg, reader.records, num_outputs)
    reader.records = match_classes(reader.records, outputs, whose)
    if images is not None:
        if cfg.format == "mnist5k":  # its reader knows all of its images by their place
            raise UserError("eval.images: mnist5k is always used whole")
        reader.records = random_part(reader.records, images)
    sampler = EvalSampler(len(reader.records), batch_size=batch_size, rank=rank, world_size=world_size)
    return EvalLoader(cfg, reader, sampler, EvalTransform(cfg, img_size), device)


def _assumed_outputs(cfg: DataConfig, records: ImageList, count: int | None) -> tuple[list[str], str]:
    """The class names of a model whose weights have none, and whose names they are: ImageNet's where all classes of
    the data are, else those of the training split beside them, else those of the data where they are as many.
    """
    imagenet = imagenet_classes()
    from_imagenet = not set(records.classes) - set(imagenet)
    if from_imagenet and (count == len(imagenet) or (cfg.classes and load_classes(cfg.classes).restricted)):
        return imagenet, "ImageNet"
    train = None if cfg.classes else quick_classes(cfg, "train")
    if train is not None and count in (None, len(train)):
        return train, "the training split"
    if count is None or len(records.classes) == count:
        return records.classes, "the data"
    if records.numbered and len(records.classes) < count:
        return [str(number) for number in range(count)], "the model"
    raise UserError(
        f"the weights name no classes and have {count}, the data have {len(records.classes)}: "
        f"{shown_names(records.classes)}; give data.classes, a file with the names of all {count} in their order"
    )
