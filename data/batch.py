"""A batch: as bytes on its way from a worker, and finished as the model sees it."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Replacement:
    """An unreadable training image and the image that took its place."""

    index: int
    by: int
    reason: str


@dataclass
class RawBatch:
    """What a worker sends: uint8 pixels (a quarter of the bytes of floats) and the erased boxes beside them.

    pixels: uint8 (n, C, H, W). boxes: int64 (m, 5) of sample, top, left, height, width.
    noise: float32, the boxes' contents one after the other. error: one line if the batch could not be made.
    """

    pixels: Tensor
    targets: Tensor
    indices: Tensor
    boxes: Tensor
    noise: Tensor
    epoch: int
    position: int
    replaced: list[Replacement] = field(default_factory=list)
    error: str | None = None

    def pin_memory(self) -> "RawBatch":
        """Pin the large tensors, so that copies to a GPU overlap with work (called by the DataLoader)."""
        self.pixels, self.noise = self.pixels.pin_memory(), self.noise.pin_memory()
        return self


@dataclass(frozen=True)
class Batch:
    """A finished batch.

    images: float32 (n, C, H, W), normalised. targets: int64 (n,). indices: int64 (n,), in the image list.
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
    """uint8 (n, C, H, W) to normalised float32 (n, C, H, W), for a whole batch at once."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        deviation = np.asarray(std, dtype=np.float64)
        self.scale = torch.tensor(1 / (255 * deviation), dtype=torch.float32).view(-1, 1, 1)
        self.shift = torch.tensor(-np.asarray(mean) / deviation, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, raw: RawBatch) -> Batch:
        """Normalise and put the erased boxes in."""
        # numpy asks for huge pages, torch does not: a fresh batch then costs a third less
        images = torch.from_numpy(np.empty(raw.pixels.shape, dtype=np.float32))
        for image, pixels in zip(images, raw.pixels, strict=True):  # one at a time stays in the cache
            image.copy_(pixels).mul_(self.scale).add_(self.shift)
        used = 0
        for sample, top, left, height, width in raw.boxes.tolist():
            size = images.shape[1] * height * width
            box = raw.noise[used : used + size].view(-1, height, width)
            images[sample, :, top : top + height, left : left + width] = box
            used += size
        return Batch(images, raw.targets, raw.indices, raw.epoch, raw.position, tuple(raw.replaced))
