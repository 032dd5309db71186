"""The `data` section of a config. Defaults are the paper's ImageNet recipe (section 3.2, as in Swin)."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class AugmentConfig(_Section):
    """How training images are changed. `auto_augment` and the names of the modes are timm's."""

    crop: Literal["auto", "resized", "padded"] = "auto"
    """`resized`: random area and ratio; `padded`: zero padding, then a random crop without resizing;
    `auto`: `padded` up to 32 pixels as in Swin, else `resized`."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area in a `resized` crop."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of width to height of a `resized` crop."""
    padding: int = Field(default=4, ge=0, le=4096)
    """Pixels of black on each side before a `padded` crop."""
    hflip: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    vflip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring top and bottom."""
    color_jitter: float = Field(default=0.4, ge=0)
    """Strength. As in timm it acts only where `auto_augment` is off."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's words; null: none."""
    erase_prob: float = Field(default=0.25, ge=0, le=1)
    """Probability of random erasing."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What fills an erased rectangle: zero, one random colour, or a random value a pixel."""
    erase_count: int = Field(default=1, ge=1, le=1024)
    """Rectangles that are erased."""
    repeats: int = Field(default=1, ge=1, le=1024)
    """Repeated augmentation: copies of an image in one epoch. The epoch keeps its length."""

    @model_validator(mode="after")
    def _ranges(self) -> "AugmentConfig":
        for name, low in (("scale", 0.0), ("ratio", 0.0)):
            first, second = getattr(self, name)
            if not low < first <= second:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high")
        return self


class MixupConfig(_Section):
    """Mixup, CutMix and label smoothing: all that turns a class number into a soft target."""

    mixup: float = Field(default=0.8, ge=0)
    """Mixup's alpha, of the beta distribution; 0: none."""
    cutmix: float = Field(default=1.0, ge=0)
    """CutMix's alpha, of the beta distribution; 0: none."""
    prob: float = Field(default=1.0, ge=0, le=1)
    """Probability that a group is mixed."""
    switch_prob: float = Field(default=0.5, ge=0, le=1)
    """Probability of CutMix in place of mixup, where both are on."""
    group: int = Field(default=128, ge=2, lt=2**31, multiple_of=2)
    """Samples that share one draw, counted along the epoch, so ranks and accumulation do not change it."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of a target that is spread evenly over all classes."""

    @property
    def enabled(self) -> bool:
        """Whether images are mixed at all."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)


class DataConfig(_Section):
    """What is read, from where, and how it becomes batches."""

    format: Literal["folder", "zip", "tar", "csv", "parquet", "mnist5k"] = "folder"
    """How the data set is stored; see docs/data.md."""
    root: Path | None = None
    """Folder that holds the data. `mnist5k` needs none."""
    train: str | None = None
    """Name below `root`; by default `train`, `train.zip`, `train-*.tar`, `train.csv` or `data/train-*.parquet`."""
    val: str | None = None
    """Name below `root`; by default `val`, `val.zip`, `val-*.tar`, `val.csv` or `data/validation-*.parquet`."""
    name: str | None = None
    """Name of the data set in results; by default the name of `root`. MNIST-5k is always called so."""
    train_images: int | None = Field(default=None, ge=1, lt=2**31)
    """Train on a fixed part of the training images: this many, from each class alike. Null: all."""
    held_out: int | None = Field(default=None, ge=1, lt=2**31)
    """Evaluate on this many training images, from each class alike, that are then not trained on. Null: on `val`."""
    index: Path | None = None
    """Folder of the index files; by default `root`. Written by tools/prepare_imagenet.py."""
    classes: str | None = None
    """Which classes the labels mean: `imagenet`, `imagenet_a`, `imagenet_r`, `imagenet_v2`, or a file of names."""
    channels: Literal[1, 3] = 3
    """Must equal `model.in_chans`. Grey images are copied to 3 channels, colour ones made grey for 1."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from pixels scaled to [0, 1]; one number, or one a channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """What the pixels are divided by, after the mean."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How images are resized."""
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    """Test crop: the shorter side becomes size / crop_pct (256 for 224), then the centre is cut."""
    eval_crop: Literal["auto", "center", "squash", "none"] = "auto"
    """`squash` resizes both sides (Swin at 384); `none` cuts or pads; `auto`: `none` up to 32 pixels."""
    workers: int = Field(default=8, ge=0, le=1024)
    """Processes that load images, per rank; 0: the main process loads."""
    prefetch: int = Field(default=2, ge=1, le=1024)
    """Batches that each worker prepares ahead."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds to wait for a batch before the run ends with an error."""
    pin_memory: bool = True
    """Copy batches into page-locked memory where there is a GPU."""
    fast_decode: bool = True
    """Faster JPEG decoding for training crops; see docs/data.md for the pixel difference. Evaluation is exact."""
    cache: Literal["none", "memory"] = "none"
    """`memory`: keep all pictures decoded, for data that fit. The batches stay the same to the last bit."""
    max_corrupt: float = Field(default=0.001, ge=0, le=1)
    """Largest share of unreadable training images before the run stops."""
    exif: bool = False
    """Turn pictures as their EXIF says. ImageNet's protocol does not; cameras' pictures need it."""
    max_pixels: int = Field(default=178_956_970, ge=1, le=178_956_970)
    """Larger images are refused as decompression bombs; the default is the most that PIL opens."""
    augment: AugmentConfig = AugmentConfig()
    """How training images are changed."""
    mixup: MixupConfig = MixupConfig()
    """How training images and labels are mixed."""

    @model_validator(mode="after")
    def _channel_statistics(self) -> "DataConfig":
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} needs 1 or {self.channels} numbers (data.channels)")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        for key in ("train_images", "held_out"):
            if getattr(self, key) is not None and self.format == "mnist5k":
                raise ValueError(f"{key}: mnist5k is always used whole")
        return self

    @property
    def dataset_name(self) -> str:
        """Name for results and logs."""
        if self.format == "mnist5k":
            return "MNIST-5k"
        name = self.name or (self.root.name if self.root else self.format)
        parts = [] if self.train_images is None else [f"{self.train_images:,} training images"]
        parts += [] if self.held_out is None else [f"evaluated on {self.held_out:,} held out of them"]
        return f"{name} ({', '.join(parts)})" if parts else name
