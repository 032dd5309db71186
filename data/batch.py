"""A batch: as bytes on its way from a worker, and finished as the model sees it."""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data.sampler import BatchKey
from data.upload import Upload

_AT_ONCE = 1 << 17  # values, which stay in the processor's cache while they are normalised
_KEPT = 3  # batches: one in use, one kept by the caller, one being made


def _references(arrays: list[np.ndarray], number: int) -> int:
    return sys.getrefcount(arrays[number])


_UNUSED = _references([np.empty(1)], 0)  # of an array that only its list refers to; versions of Python differ


@dataclass(frozen=True)
class Replacement:
    """An unreadable training image and the image that took its place."""

    index: int
    by: int
    reason: str


@dataclass
class RawBatch:
    """What a worker sends: uint8 pixels (a quarter of the bytes of floats) and the erased boxes beside them.

    boxes: (sample, top, left, height, width) each. noise: float32, their contents one after the other.
    error: one line if the batch could not be made. pixels: uint8 (n, C, H, W), valid for a moment only.
    """

    key: BatchKey
    targets: list[int] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    noise: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    replaced: list[Replacement] = field(default_factory=list)
    error: str | None = None
    pixels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))


@dataclass(frozen=True)
class Batch:
    """A finished batch.

    images: float32 (n, C, H, W), normalised. targets: int64 (n,). indices: int64 (n,), in the image list. All
    are on the loader's device.
    epoch, position: of the first sample in the epoch's order over all ranks; `(seed, epoch, position)`
    seeds mixup. replaced: unreadable images of this batch; the index of a replaced image stays in `indices`.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    epoch: int = 0
    position: int = 0
    replaced: tuple[Replacement, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


class Normalizer:
    """uint8 (n, C, H, W) to normalised float32 (n, C, H, W) on the device of the model, for a whole batch at once."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], upload: Upload) -> None:
        deviation = np.asarray(std, dtype=np.float64)
        scale = torch.tensor(1 / (255 * deviation), dtype=torch.float32).view(-1, 1, 1)
        shift = torch.tensor(-np.asarray(mean) / deviation, dtype=torch.float32).view(-1, 1, 1)
        self.scale, self.shift = scale.to(upload.device), shift.to(upload.device)
        self._upload = upload
        self._arrays: list[np.ndarray] = []

    def __call__(self, raw: RawBatch) -> Batch:
        """Send the bytes to the device, normalise there and put the erased boxes in."""
        targets = torch.tensor(raw.targets, dtype=torch.int64)
        indices = torch.from_numpy(np.array(raw.key.indices, dtype=np.int64))
        with self._upload.aside():
            images, targets, indices = self._finish(raw), self._upload.send(targets), self._upload.send(indices)
        self._upload.hand_over(images, targets, indices)
        return Batch(images, targets, indices, raw.key.epoch, raw.key.position, tuple(raw.replaced))

    def _finish(self, raw: RawBatch) -> Tensor:
        pixels, noise = self._upload.send(raw.pixels), torch.from_numpy(raw.noise)
        if self._upload.needed:
            images = pixels.float().mul_(self.scale).add_(self.shift)
            noise = self._upload.send(noise) if len(noise) else noise
        else:
            images = self._allocate(pixels.shape)
            some = max(1, _AT_ONCE // pixels[:1].numel()) if len(images) else 1
            for part, source in zip(images.split(some), pixels.split(some), strict=True):
                part.copy_(source).mul_(self.scale).add_(self.shift)
        used = 0
        for sample, top, left, height, width in raw.boxes:
            size = images.shape[1] * height * width
            box = noise[used : used + size].view(-1, height, width)
            images[sample, :, top : top + height, left : left + width] = box
            used += size
        return images

    def _allocate(self, shape: torch.Size) -> Tensor:
        """Return memory for a batch: that of an earlier one which nobody holds any more, as fresh pages cost time."""
        count, *rest = shape
        for number in range(len(self._arrays)):
            # A tensor made by from_numpy, and any view of it, keeps a reference to the array: without one it is free.
            if _references(self._arrays, number) == _UNUSED:
                array = self._arrays[number]
                if len(array) >= count and list(array.shape[1:]) == rest:
                    return torch.from_numpy(array[:count])
        array = np.empty(shape, dtype=np.float32)
        if len(self._arrays) < _KEPT:
            self._arrays.append(array)
        return torch.from_numpy(array)
