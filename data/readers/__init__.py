"""Readers: where images come from. Each reader has a list of images and opens one by its number."""

from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from data.config import DataConfig
from data.errors import DataError
from data.readers.folder import FolderReader
from data.readers.mnist import MnistReader
from data.records import ImageList

Split = Literal["train", "val"]
_DEFAULTS = {"folder": "{}", "zip": "{}.zip", "tar": "{}-*.tar", "csv": "{}.csv"}


class Reader(Protocol):
    """What the loader needs of a reader."""

    records: ImageList

    def open(self, index: int) -> Image.Image:
        """Return the image, not yet decoded. Raises CorruptImageError naming the file."""


def split_path(cfg: DataConfig, split: Split) -> Path:
    """Return where a split lies (for tar: the pattern of its shards). Raises DataError for a wrong root."""
    if cfg.root is None:
        raise DataError(f"data.root is missing: data.format={cfg.format} reads from a folder")
    if not cfg.root.is_dir():
        raise DataError(f"data.root: there is no folder {cfg.root}")
    given = cfg.train if split == "train" else cfg.val
    return cfg.root / (given or _DEFAULTS[cfg.format].format(split))


def open_reader(cfg: DataConfig, split: Split) -> Reader:
    """Open the reader that the config names. Raises DataError with one clear line."""
    if cfg.format == "mnist5k":
        return MnistReader(split)
    return FolderReader(split_path(cfg, split), cfg.max_pixels)
