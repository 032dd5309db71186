"""Image transforms: timm's operations with Swin's arguments, drawn in timm's order.

With the generators seeded alike, `TrainTransform` gives the pixels and erased boxes that
`timm.data.create_transform` gives (paper section 3.2: the training setting of Swin).
"""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, RandomResizedCropAndInterpolation
from torchvision import transforms

from data.config import AugmentConfig, DataConfig
from data.crop import exact_crop, fast_crop
from data.decode import Encoded, decode, pixels_of, to_array, to_image
from data.randaugment import speed_up
from models.errors import UserError

Size = tuple[int, int]
SMALL = 32  # up to this size Swin pads and crops, and does not resize


@dataclass
class Erased:
    """One erased box of an image: noise float32 (C, h, w) in normalised units goes to [top:, left:]."""

    top: int
    left: int
    noise: torch.Tensor


@dataclass
class Sample:
    """One image: pixels uint8 (C, H, W) and its erased boxes."""

    pixels: np.ndarray
    erased: list[Erased]


def pair(size: int | Size) -> Size:
    """Return (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def channel_values(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one value for each channel; one number serves all."""
    return values * channels if len(values) == 1 else values


class TrainTransform:
    """Random crop, flips, RandAugment or colour jitter, random erasing. The generators must be seeded before."""

    def __init__(self, cfg: DataConfig, img_size: int | Size) -> None:
        self.size = pair(img_size)
        self.cfg = cfg
        augment = cfg.augment
        self.resized = augment.crop == "resized" or (augment.crop == "auto" and max(self.size) > SMALL)
        self.operations = _operations(cfg, self.size)

    def __call__(self, encoded: Encoded) -> Sample:
        """Transform an image. Raises CorruptImageError naming the file."""
        image = self._flipped(self._resized_crop(encoded) if self.resized else self._padded_crop(encoded))
        if self.operations:
            image = to_image(image) if isinstance(image, np.ndarray) else image
            for operation in self.operations:
                image = operation(image)
        pixels = image if isinstance(image, np.ndarray) else to_array(image)
        return Sample(pixels, draw_erased(self.cfg.augment, len(pixels), self.size))

    def _resized_crop(self, encoded: Encoded) -> Image.Image:
        augment = self.cfg.augment
        sized = _Sized()
        sized.size = encoded.size
        box = RandomResizedCropAndInterpolation.get_params(sized, augment.scale, augment.ratio)
        crop = fast_crop if self.cfg.fast_decode else exact_crop
        return crop(encoded, box, self.size, self.cfg.interpolation, self.cfg.channels)

    def _padded_crop(self, encoded: Encoded) -> np.ndarray:
        return padded_crop(pixels_of(encoded, self.cfg.channels), self.size, self.cfg.augment.padding)

    def _flipped(self, image: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """Draw as torchvision's flips do, without the calls around them."""
        augment = self.cfg.augment
        across = bool(augment.hflip) and torch.rand(1).item() < augment.hflip
        down = bool(augment.vflip) and torch.rand(1).item() < augment.vflip
        if isinstance(image, np.ndarray):
            return image[:, :: -1 if down else 1, :: -1 if across else 1]
        if across:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down else image


def padded_crop(pixels: np.ndarray, size: Size, padding: int) -> np.ndarray:
    """Cut a random window of `size` from uint8 (C, H, W) with a black border, as torchvision's RandomCrop draws it.

    An image that is smaller than the window with its border gets a border as wide as what is missing, on both sides.
    """
    (tall, wide), (height, width) = size, pixels.shape[1:]
    above, left = padding + max(0, tall - height - 2 * padding), padding + max(0, wide - width - 2 * padding)
    room = height + 2 * above - tall, width + 2 * left - wide
    first = [int(torch.randint(0, most + 1, size=(1,))) for most in room] if any(room) else room
    window = np.zeros((len(pixels), tall, wide), dtype=np.uint8)
    rows, from_rows = _overlap(first[0] - above, tall, height)
    columns, from_columns = _overlap(first[1] - left, wide, width)
    window[:, rows, columns] = pixels[:, from_rows, from_columns]
    return window


def _overlap(shift: int, wanted: int, there: int) -> tuple[slice, slice]:
    """The lines of a window of `wanted` that show a picture of `there`, and its lines: k shows k + shift."""
    low = max(0, -shift)
    high = max(low, min(wanted, there - shift))
    return slice(low, high), slice(low + shift, high + shift)


def _operations(cfg: DataConfig, size: Size) -> list:
    augment = cfg.augment
    try:
        _, operations, _ = create_transform(  # the first, crop and flips, and the last, to a tensor, are done here
            size,
            is_training=True,
            separate=True,
            color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]  # as in Swin, and timm allows it
            auto_augment=augment.auto_augment,
            interpolation=cfg.interpolation,
            mean=channel_values(cfg.mean, cfg.channels),
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(
            f"data.augment.auto_augment={augment.auto_augment} is not known to timm; e.g. rand-m9-mstd0.5-inc1"
        ) from error
    return [speed_up(operation) for operation in operations.transforms] if cfg.fast_decode else operations.transforms


def draw_erased(augment: AugmentConfig, channels: int, size: Size) -> list[Erased]:
    """Draw the boxes of random erasing (Zhong et al., 2020) as timm draws them: area 2% to 33%, aspect 0.3 to 3.3.

    The noise is standard normal and belongs on the normalised image, so it is carried beside the pixels.
    """
    if augment.erase_prob == 0 or random.random() > augment.erase_prob:
        return []
    count = 1 if augment.erase_count == 1 else random.randint(1, augment.erase_count)
    boxes = [_draw_box(size, count) for _ in range(count)]
    return boxes_with_noise([box for box in boxes if box], augment.erase_mode, channels)


def _draw_box(size: Size, count: int) -> tuple[int, int, int, int] | None:
    for _ in range(10):
        area = random.uniform(0.02, 1 / 3) * size[0] * size[1] / count
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size[0] and width < size[1]:
            return random.randint(0, size[0] - height), random.randint(0, size[1] - width), height, width
    return None


def boxes_with_noise(boxes: list[tuple[int, int, int, int]], mode: str, channels: int) -> list[Erased]:
    """Fill boxes (top, left, height, width): `pixel` noise, one `rand` colour, or `const` zero (the mean)."""
    erased = []
    for top, left, height, width in boxes:
        shape = (channels, height, width)
        if mode == "pixel":
            noise = torch.empty(shape).normal_()
        elif mode == "rand":
            noise = torch.empty((channels, 1, 1)).normal_().expand(shape)
        else:
            noise = torch.zeros(shape)
        erased.append(Erased(top, left, noise))
    return erased


class EvalTransform:
    """Resize and centre crop as in timm's evaluation; small images are only cut or padded."""

    def __init__(self, cfg: DataConfig, img_size: int | Size) -> None:
        self.cfg = cfg
        self.size = size = pair(img_size)
        mode = cfg.eval_crop
        if mode == "auto":
            mode = "none" if max(size) <= SMALL else "center"
        self.mode = mode
        if mode == "none":
            self.transform = CenterCropOrPad(list(size))
        elif mode == "squash":
            self.transform = transforms.Resize(size, transforms.InterpolationMode(cfg.interpolation))
        else:
            full = create_transform(size, crop_pct=cfg.crop_pct, interpolation=cfg.interpolation, normalize=False)
            self.transform = transforms.Compose(full.transforms[:-1])  # the last makes a tensor

    def __call__(self, encoded: Encoded) -> Sample:
        """Transform an image. Raises CorruptImageError naming the file."""
        if self.mode == "none" and encoded.pixels is not None and encoded.pixels.shape[1:] == self.size:
            return Sample(encoded.pixels, [])  # nothing to cut or to pad
        return Sample(to_array(self.transform(decode(encoded, self.cfg.channels))), [])


class _Sized(Image.Image):
    """An image without pixels: timm asks for the size, nothing else."""

    size = (0, 0)
