"""Which sample is where in an epoch. The order depends on (seed, epoch) alone, never on ranks or workers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.rng import hash64, permutation
from models.errors import UserError

_ORDER = 0x6F72646572  # separates the hash of the order from the hashes of augmentations


@dataclass(frozen=True)
class BatchKey:
    """What a worker must know to make one batch: it keeps no state of its own.

    position: of the first sample, counted along the whole epoch over all ranks.
    indices: int64 (n,), which images. repeats: int64 (n,), which copy of each under repeated augmentation.
    """

    seed: int
    epoch: int
    position: int
    indices: np.ndarray
    repeats: np.ndarray


def epoch_order(seed: int, epoch: int, count: int, repeats: int = 1, block: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of an epoch in order and the number of each copy, both int64 (count,).

    With `repeats` above 1, only count / repeats images are seen in the epoch, each `repeats` times
    (repeated augmentation, Hoffer et al., 2020); copies lie in the same `block`, never side by side.
    """
    order = permutation(hash64(seed, epoch, _ORDER), count)
    if repeats == 1:
        return order, np.zeros(count, dtype=np.int64)
    images, copies, used = [], [], 0
    for start in range(0, count, block):
        length = min(block, count - start)
        distinct = -(-length // repeats)
        images.append(np.tile(order[used : used + distinct], repeats)[:length])
        copies.append(np.repeat(np.arange(repeats), distinct)[:length])
        used += distinct
    return np.concatenate(images), np.concatenate(copies)


class TrainSampler:
    """The batches of one rank for the epoch that `set_epoch` chose. Incomplete global batches are dropped."""

    def __init__(self, count: int, *, batch_size: int, rank: int, world_size: int, seed: int, repeats: int = 1) -> None:
        self.count, self.batch_size, self.rank, self.world_size = count, batch_size, rank, world_size
        self.seed, self.repeats = seed, repeats
        self.epoch, self.start = 0, 0
        if len(self) == 0:
            raise UserError(
                f"{count} training images do not fill one batch of {batch_size} on each of {world_size} ranks"
            )

    def set_epoch(self, epoch: int, start: int) -> None:
        """Choose the epoch and the first batch of it."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[BatchKey]:
        indices, copies = epoch_order(self.seed, self.epoch, self.count, self.repeats, block=256)
        for batch in range(self.start, len(self)):
            first = (batch * self.world_size + self.rank) * self.batch_size
            share = slice(first, first + self.batch_size)
            yield BatchKey(self.seed, self.epoch, first, indices[share], copies[share])


class EvalSampler:
    """A contiguous share of all images: each exactly once over all ranks, last batches uneven, none padded."""

    def __init__(self, count: int, *, batch_size: int, rank: int, world_size: int) -> None:
        self.first, self.last = count * rank // world_size, count * (rank + 1) // world_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        for first in range(self.first, self.last, self.batch_size):
            indices = np.arange(first, min(first + self.batch_size, self.last))
            yield BatchKey(0, 0, first, indices, np.zeros_like(indices))
