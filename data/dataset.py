"""What runs inside a worker: a batch key goes in, the raw batch comes out."""

import numpy as np

from data.batch import RawBatch, Replacement
from data.decode import upright
from data.errors import CorruptImageError
from data.readers import Reader
from data.rng import hash64, seed_sample
from data.sampler import BatchKey
from data.transforms import EvalTransform, Sample, TrainTransform

_REPLACE = 0x7265706C616365  # separates the hash of replacements from other hashes
_ATTEMPTS = 16


class BatchDataset:
    """Makes whole batches. Training replaces unreadable images; evaluation reports the first one."""

    def __init__(
        self, reader: Reader, transform: TrainTransform | EvalTransform, *, training: bool, exif: bool = False
    ) -> None:
        self.reader = reader
        self.transform = transform
        self.training = training
        self.exif = exif

    def make(self, key: BatchKey, pixels: np.ndarray) -> RawBatch:
        """Return the batch of a key; the same key gives the same batch in each worker.

        The images are written to `pixels`, uint8 (n or more, C, H, W); the caller puts them into the batch.
        """
        boxes: list[tuple[int, int, int, int, int]] = []
        noise: list[np.ndarray] = []
        targets: list[int] = []
        replaced: list[Replacement] = []
        for number, (index, repeat) in enumerate(zip(key.indices.tolist(), key.repeats.tolist(), strict=True)):
            try:
                sample, used = self._sample(key, index, repeat, replaced)
            except CorruptImageError as error:
                return RawBatch(key, error=str(error))
            pixels[number] = sample.pixels
            targets.append(int(self.reader.records.labels[used]))
            for box in sample.erased:
                boxes.append((number, box.top, box.left, *box.noise.shape[1:]))
                noise.append(box.noise.numpy().ravel())
        return RawBatch(key, targets, boxes, np.concatenate(noise) if noise else np.empty(0, np.float32), replaced)

    def _sample(self, key: BatchKey, index: int, repeat: int, replaced: list[Replacement]) -> tuple[Sample, int]:
        wanted, first_error = index, ""
        for attempt in range(1, _ATTEMPTS + 1):
            if self.training:
                seed_sample(key.seed, key.epoch, wanted, repeat)
            try:
                image = self.reader.open(index)
                sample = self.transform(upright(image) if self.exif else image)
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
