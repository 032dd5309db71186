"""What runs inside a worker: a batch key goes in, the raw batch comes out."""

import numpy as np
import torch
from torch.utils.data import Dataset

from data.batch import RawBatch, Replacement
from data.errors import CorruptImageError
from data.hashing import hash64
from data.readers import Reader
from data.sampler import BatchKey
from data.seeding import seed_sample
from data.transforms import EvalTransform, Sample, TrainTransform

_REPLACE = 0x7265706C616365  # separates the hash of replacements from other hashes
_ATTEMPTS = 16


class BatchDataset(Dataset[RawBatch]):
    """Makes whole batches. Training replaces unreadable images; evaluation reports the first one."""

    def __init__(self, reader: Reader, transform: TrainTransform | EvalTransform, *, training: bool) -> None:
        self.reader = reader
        self.transform = transform
        self.training = training

    def __getitem__(self, key: BatchKey) -> RawBatch:
        """Return the batch of a key; the same key gives the same batch in each worker."""
        samples: list[Sample] = []
        targets: list[int] = []
        replaced: list[Replacement] = []
        try:
            for index, repeat in zip(key.indices.tolist(), key.repeats.tolist(), strict=True):
                sample, used = self._sample(key, index, repeat, replaced)
                samples.append(sample)
                targets.append(int(self.reader.records.labels[used]))
        except CorruptImageError as error:
            return _failed(key, str(error))
        return _collate(key, samples, targets, replaced)

    def _sample(self, key: BatchKey, index: int, repeat: int, replaced: list[Replacement]) -> tuple[Sample, int]:
        wanted, first_error = index, ""
        for attempt in range(1, _ATTEMPTS + 1):
            if self.training:
                seed_sample(key.seed, key.epoch, wanted, repeat)
            try:
                sample = self.transform(self.reader.open(index), self.reader.records.name(index))
            except CorruptImageError as error:
                if not self.training:
                    raise
                first_error = first_error or str(error)
                index = hash64(key.seed, key.epoch, wanted, _REPLACE, attempt) % len(self.reader.records)
                continue
            if index != wanted:
                replaced.append(Replacement(wanted, index, first_error))
            return sample, index
        raise CorruptImageError(f"{first_error}; {_ATTEMPTS - 1} images drawn in its place cannot be read either")


def _collate(key: BatchKey, samples: list[Sample], targets: list[int], replaced: list[Replacement]) -> RawBatch:
    boxes = [
        (number, box.top, box.left, *box.noise.shape[1:])
        for number, sample in enumerate(samples)
        for box in sample.erased
    ]
    noise = [box.noise.reshape(-1) for sample in samples for box in sample.erased]
    return RawBatch(
        pixels=torch.from_numpy(np.stack([sample.pixels.transpose(2, 0, 1) for sample in samples])),
        targets=torch.tensor(targets, dtype=torch.int64),
        indices=torch.from_numpy(np.asarray(key.indices, dtype=np.int64)),
        boxes=torch.tensor(boxes, dtype=torch.int64).reshape(-1, 5),
        noise=torch.cat(noise) if noise else torch.empty(0),
        epoch=key.epoch,
        position=key.position,
        replaced=replaced,
    )


def _failed(key: BatchKey, error: str) -> RawBatch:
    nothing = torch.empty(0)
    indices = torch.from_numpy(np.asarray(key.indices, dtype=np.int64))
    return RawBatch(nothing, nothing, indices, nothing, nothing, key.epoch, key.position, [], error)
