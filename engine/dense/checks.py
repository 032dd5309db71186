"""What is wrong with a config or data set is said before anything starts, by name."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image, UnidentifiedImageError

from engine.dense.arguments import datasets, similar
from models.errors import UserError, hint

SCOPES = {"detection": "mmdet", "segmentation": "mmseg"}


def check_config(config: Config, task: str) -> None:
    """The config is one for ``task``, "detection" or "segmentation"."""
    for key in ("model", "default_scope"):
        if key not in config:
            raise UserError(f"config {config.filename}: has no {key!r}")
    if config.default_scope != SCOPES[task]:
        other = next((name for name, scope in SCOPES.items() if scope == config.default_scope), config.default_scope)
        raise UserError(f"config {config.filename}: is for {other}, this command is for {task}")


def check_checkpoint(path: str) -> None:
    """The checkpoint is a file."""
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path}: no such file{similar(Path(path), '*.pth')}")


def check_datasets(config: Config, splits: Sequence[str]) -> None:
    """Look through the annotations of the data sets of ``splits``: files, image names, classes, label values.

    Raises:
        UserError: the first thing that is wrong, with the file.
    """
    check = check_coco if config.default_scope == "mmdet" else check_labels
    for split in splits:
        for dataset in datasets(config, split):
            check(dataset, f"{split}_dataloader", config)


def _existing(dataset: ConfigDict, name: str, where: str, *, folder: bool) -> Path:
    path = Path(dataset.get("data_root") or "", name)
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise UserError(f"{where}: no {kind} {path}{similar(path)}")
    return path


def check_coco(dataset: ConfigDict, where: str, config: Config) -> None:
    """COCO annotations: the file, its sections, its categories, boxes and the images that it names."""
    path = _existing(dataset, dataset.get("ann_file", ""), where, folder=False)
    images = _existing(dataset, dataset.get("data_prefix", {}).get("img", ""), where, folder=True)
    try:
        content = json.loads(path.read_text())
        sections = {key: content[key] for key in ("images", "annotations", "categories")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    _check_categories(sections["categories"], dataset, path)
    known = {category["id"] for category in sections["categories"]}
    ids = {image["id"] for image in sections["images"]}
    for annotation in sections["annotations"]:
        name = f"{path}: annotation {annotation.get('id')}"
        if annotation.get("category_id") not in known:
            raise UserError(f"{name}: category_id {annotation.get('category_id')} is not one of its categories")
        if annotation.get("image_id") not in ids:
            raise UserError(f"{name}: image_id {annotation.get('image_id')} is not one of its images")
        if len(annotation.get("bbox", ())) != 4:
            raise UserError(f"{name}: bbox is not [x, y, width, height]")
    there = {file.name for file in images.iterdir()}
    for image in sections["images"]:
        name = image["file_name"]
        if name not in there and not (images / name).is_file():
            raise UserError(f"{path}: image {images / name} does not exist")


def _check_categories(categories: list[dict[str, Any]], dataset: ConfigDict, path: Path) -> None:
    classes = (dataset.get("metainfo") or {}).get("classes") or default_classes(dataset, "mmdet")
    names = {category["name"] for category in categories}
    for name in classes:
        if name not in names:
            raise UserError(f"{path}: has no category {name!r}; {hint(str(name), map(str, names))}")


def default_classes(dataset: ConfigDict, scope: str) -> Sequence[str]:
    """The classes that a data set's own type declares."""
    import_module(f"{scope}.datasets")
    with DefaultScope.overwrite_default_scope(scope):
        kind = DATASETS.get(dataset.type)
    return (getattr(kind, "METAINFO", None) or {}).get("classes") or ()


def check_labels(dataset: ConfigDict, where: str, config: Config) -> None:
    """Label images: one for each image, and only values that are a class or `ignore`."""
    prefix = dataset.get("data_prefix", {})
    images = _existing(dataset, prefix.get("img_path", ""), where, folder=True)
    labels = _existing(dataset, prefix.get("seg_map_path", ""), where, folder=True)
    suffix = dataset.get("img_suffix", ".jpg"), dataset.get("seg_map_suffix", ".png")
    names = [str(image.relative_to(images)) for image in sorted(images.rglob(f"*{suffix[0]}"))]
    files = [labels / (name.removesuffix(suffix[0]) + suffix[1]) for name in names]
    if not files:
        raise UserError(f"{where}: {images} holds no image *{suffix[0]}")
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise UserError(f"{where}: label image {missing} does not exist")
    classes = config.model.get("decode_head", config.model.get("module", {}).get("decode_head", {})).num_classes
    allowed = np.zeros(256, bool)
    allowed[255] = True
    allowed[: classes + _reduces_zero(dataset)] = True
    with ThreadPoolExecutor() as pool:
        for file, bad in _in_order(pool, files, allowed):
            if bad is not None:
                raise UserError(f"{file}: label value {bad} is neither one of {classes} classes nor `ignore`")


def _in_order(pool: ThreadPoolExecutor, files: list[Path], allowed: np.ndarray) -> Iterator[tuple[Path, int | None]]:
    yield from zip(files, pool.map(lambda file: _first_bad_value(file, allowed), files), strict=True)


def _first_bad_value(file: Path, allowed: np.ndarray) -> int | None:
    try:
        with Image.open(file) as image:
            if image.mode not in ("L", "P"):
                raise UserError(f"{file}: a label image must have one 8-bit channel, this one is {image.mode}")
            counts = np.bincount(np.asarray(image).ravel(), minlength=256)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file}: cannot be read as an image ({error})") from error
    bad = np.flatnonzero((counts > 0) & ~allowed)
    return int(bad[0]) if len(bad) else None


def _reduces_zero(dataset: ConfigDict) -> bool:
    """Whether 0 means `ignore` and the classes begin at 1 (ADE20K)."""
    if "reduce_zero_label" in dataset:
        return bool(dataset.reduce_zero_label)
    steps = dataset.get("pipeline") or []
    return any(step.get("reduce_zero_label", False) for step in steps if step.get("type") == "LoadAnnotations")
