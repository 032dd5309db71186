"""A look through the label images of a segmentation data set before a training."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from engine.dense.checks import class_names, existing, turns
from engine.dense.pictures import picture_size, strangers
from models.errors import UserError

IGNORE = 255


def check_labels(dataset: ConfigDict, where: str, config: Config) -> None:
    """Label images: one of its size for each picture, only values that are a class or `ignore`, classes to learn."""
    prefix = dataset.get("data_prefix", {})
    images = existing(dataset, prefix.get("img_path", ""), where, folder=True)
    labels = existing(dataset, prefix.get("seg_map_path", ""), where, folder=True)
    pairs = list(
        _pairs(images, labels, dataset.get("img_suffix", ".jpg"), dataset.get("seg_map_suffix", ".png"), where)
    )
    classes = class_names(dataset, config.default_scope)
    reduced = reduces_zero(dataset)
    count = len(classes) or _head(config).num_classes
    allowed = np.zeros(256, bool)
    allowed[IGNORE] = True
    allowed[: count + reduced] = True
    seen = np.zeros(256, np.int64)
    with ThreadPoolExecutor() as pool:
        for (_, label), counts in _counted(pool, pairs, turns(dataset)):
            bad = np.flatnonzero((counts > 0) & ~allowed)
            if len(bad):
                raise UserError(f"{label}: label value {bad[0]} is neither one of {count} classes nor `ignore`")
            seen += counts
    if where.startswith("train"):
        _check_use(seen[reduced : reduced + count] > 0, classes, f"{where}: {labels}", reduced)


def _head(config: Config) -> ConfigDict:
    return config.model.get("decode_head") or config.model.module.decode_head


def _pairs(images: Path, labels: Path, image_end: str, label_end: str, where: str) -> Iterator[tuple[Path, Path]]:
    """Each picture with its label image; none of either may stand alone or be left out for its name."""
    for folder, end in ((images, image_end), (labels, label_end)):
        left_out = strangers(folder, end)
        if left_out:
            raise UserError(f"{where}: {left_out[0]}: {len(left_out)} files there do not end in {end} and are left out")
    names = [str(file.relative_to(images)).removesuffix(image_end) for file in sorted(images.rglob(f"*{image_end}"))]
    if not names:
        raise UserError(f"{where}: {images} holds no image *{image_end}")
    others = {str(file.relative_to(labels)).removesuffix(label_end) for file in labels.rglob(f"*{label_end}")}
    for name in names:
        if name not in others:
            raise UserError(f"{where}: label image {labels / (name + label_end)} does not exist")
        yield images / (name + image_end), labels / (name + label_end)
    alone = sorted(others - set(names))
    if alone:
        raise UserError(f"{where}: image {images / (alone[0] + image_end)} does not exist, but its label image does")


def _counted(
    pool: ThreadPoolExecutor, pairs: list[tuple[Path, Path]], turn: bool
) -> Iterator[tuple[tuple[Path, Path], np.ndarray]]:
    yield from zip(pairs, pool.map(lambda pair: _count(pair[0], pair[1], turn), pairs), strict=True)


def _count(image: Path, label: Path, turn: bool) -> np.ndarray:
    """Pixels of each value in a label image of the size of its picture: (256,)."""
    size = picture_size(image, turn=turn)
    try:
        with Image.open(label) as opened:
            if opened.mode not in ("L", "P"):
                raise UserError(f"{label}: a label image must have one 8-bit channel, this one is {opened.mode}")
            if opened.size != size:
                raise UserError(
                    f"{label}: has {opened.width}x{opened.height} pixels, but its picture {size[0]}x{size[1]}"
                    + (" as it is read, turned by its EXIF" if picture_size(image, turn=False) != size else "")
                )
            return np.bincount(np.asarray(opened).ravel(), minlength=256)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{label}: cannot be read as an image ({error})") from error


def _check_use(occurs: np.ndarray, classes: list[str], where: str, reduced: bool) -> None:
    """Two classes at least occur, so that there is something to tell apart; the others are named."""
    if occurs.sum() < min(2, len(occurs)):
        found = f"only class {int(np.flatnonzero(occurs)[0])}" if occurs.any() else "no class"
        rule = "0 is `ignore` and the classes begin at 1 (reduce_zero_label)" if reduced else "the classes begin at 0"
        raise UserError(f"{where}: {found} of {len(occurs)} occurs; {rule}, and {IGNORE} is `ignore`")
    absent = [str(name) for name, there in zip(classes, occurs, strict=False) if not there]
    if absent:
        text = f"{where}: {len(absent)} of {len(classes)} classes never occur: {', '.join(absent[:10])}"
        print_log(text + (", ..." if len(absent) > 10 else ""), logger="current")


def reduces_zero(dataset: ConfigDict) -> bool:
    """Whether 0 means `ignore` and the classes begin at 1 (ADE20K)."""
    if "reduce_zero_label" in dataset:
        return bool(dataset.reduce_zero_label)
    steps = dataset.get("pipeline") or []
    return any(step.get("reduce_zero_label", False) for step in steps if step.get("type") == "LoadAnnotations")
