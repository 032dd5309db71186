"""Readers: where images come from. Each reader has a list of images and opens one by its number."""

import os
from pathlib import Path
from typing import Literal, Protocol

from data.classes import load_classes, relabel, shown_names, without_images
from data.config import DataConfig
from data.decode import Encoded
from data.image_list import ImageList, balanced_part
from data.index import describe_files, describe_names, describe_text, load_index
from data.readers.archives import TarReader, ZipReader, list_shards, map_file, scan_tar, scan_zip
from data.readers.csv_list import scan_csv
from data.readers.folder import FolderReader, count_images, list_classes, scan_folder
from data.readers.mnist import MnistReader
from data.readers.parquet import ParquetReader, list_parquet, read_classes, scan_parquet
from models.errors import UserError

Split = Literal["train", "val"]
_DEFAULTS = {"folder": "{}", "zip": "{}.zip", "tar": "{}-*.tar", "csv": "{}.csv", "parquet": "data/{}-*.parquet"}
_HUB_SPLITS = {"train": "train", "val": "validation"}


class Reader(Protocol):
    """What the loader needs of a reader."""

    records: ImageList

    def open(self, index: int) -> Encoded:
        """Return the image, not yet decoded. Raises CorruptImageError naming the file."""


def split_path(cfg: DataConfig, split: Split) -> Path:
    """Return where a split lies; for shards, their pattern. Raises UserError for a wrong root."""
    if cfg.root is None:
        raise UserError(f"data.root is missing: data.format={cfg.format} reads from a folder")
    if not cfg.root.is_dir():
        raise UserError(f"data.root: there is no folder {cfg.root}")
    given = cfg.train if split == "train" else cfg.val
    name = _HUB_SPLITS[split] if cfg.format == "parquet" else split
    return cfg.root / (given or _DEFAULTS[cfg.format].format(name))


def index_path(cfg: DataConfig, split: Split) -> Path:
    """Return where the index file of a split lies."""
    return (cfg.index or cfg.root or Path()) / f"{split}.{cfg.format}.index"


def describe_source(cfg: DataConfig, split: Split) -> str:
    """Describe the data of a split as they are now; an index of other data has another description."""
    path = split_path(cfg, split)
    if cfg.format == "folder":
        return describe_names(list_classes(path))
    if cfg.format == "csv":
        return describe_text(path)
    if cfg.format == "tar":
        return describe_files(list_shards(path))
    if cfg.format == "parquet":
        return describe_files(list_parquet(path))
    labels = map_file(path)
    return describe_files([path]) + (describe_text(labels) if labels.is_file() else "")


def scan(cfg: DataConfig, split: Split) -> ImageList:
    """List the images of a split by reading the folder, archive or table. Raises UserError."""
    path = split_path(cfg, split)
    if cfg.format == "tar":
        return scan_tar(list_shards(path))
    if cfg.format == "parquet":
        return scan_parquet(list_parquet(path))
    return {"folder": scan_folder, "zip": scan_zip, "csv": scan_csv}[cfg.format](path)


def list_images(cfg: DataConfig, split: Split) -> ImageList:
    """Return the images of a split from its index file, or by scanning where there is none. Raises UserError."""
    path = index_path(cfg, split)
    if not path.is_file():
        return scan(cfg, split)
    records, source = load_index(path)
    if source != describe_source(cfg, split):
        raise UserError(f"{path} belongs to other data than {split_path(cfg, split)}: delete it or build it again")
    if cfg.format == "folder" and os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine
        there = count_images(split_path(cfg, split))
        if there != len(records):
            raise UserError(
                f"{path} lists {len(records)} images, {split_path(cfg, split)} has {there}: delete it or build it again"
            )
    return records


def quick_classes(cfg: DataConfig, split: Split) -> list[str] | None:
    """Return the classes of a split where that takes no scan of all images: from an index, folders or a schema."""
    if cfg.format == "mnist5k" or cfg.root is None:
        return None
    if index_path(cfg, split).is_file():
        return load_index(index_path(cfg, split))[0].classes
    path = split_path(cfg, split)
    if cfg.format == "parquet" and list(path.parent.glob(path.name)):
        return read_classes(list_parquet(path)[0])
    return list_classes(path) if cfg.format == "folder" and path.is_dir() else None


def class_names(cfg: DataConfig, split: Split) -> list[str]:
    """Return the classes of a split in label order, without listing its images where that can be. Raises UserError."""
    quick = None if cfg.classes else quick_classes(cfg, split)
    return open_reader(cfg, split).records.classes if quick is None else quick


def _check_all_are_trained(whole: ImageList, rest: ImageList, count: int) -> None:
    lost = sorted(set(without_images(rest)) - set(without_images(whole)))
    if lost:
        raise UserError(
            f"data.held_out={count}: takes every image of {shown_names(lost)}, so that none would be trained on"
        )


def open_reader(cfg: DataConfig, split: Split) -> Reader:
    """Open the reader that the config names. Raises UserError with one clear line."""
    if cfg.format == "mnist5k":
        return MnistReader(split)
    stored: Split = "train" if cfg.held_out is not None else split
    path = split_path(cfg, stored)
    records = list_images(cfg, stored)
    if cfg.classes:
        records = relabel(records, load_classes(cfg.classes))
    if cfg.held_out is not None:
        part, rest = balanced_part(records, cfg.held_out, "data.held_out")
        _check_all_are_trained(records, rest, cfg.held_out)
        records = rest if split == "train" else part
    if split == "train" and cfg.train_images is not None:
        records, _ = balanced_part(records, cfg.train_images, "data.train_images")
    if cfg.format == "zip":
        return ZipReader(path, cfg.max_pixels, records)
    if cfg.format == "tar":
        return TarReader(list_shards(path), cfg.max_pixels, records)
    if cfg.format == "parquet":
        return ParquetReader(list_parquet(path), cfg.max_pixels, records)
    return FolderReader(path if cfg.format == "folder" else path.parent, cfg.max_pixels, records)
