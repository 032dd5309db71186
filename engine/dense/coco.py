"""A look through COCO annotations before a training: everything that would be learned wrongly or end it midway."""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from engine.dense.checks import class_names, existing, finite, turns
from engine.dense.pictures import picture_size
from models.errors import UserError, hint

SLACK = 2.0  # pixels by which COCO's own boxes pass the border of their image


def check_coco(dataset: ConfigDict, where: str, config: Config) -> None:
    """COCO annotations: sections, categories in the order of the classes, entries, pictures, and that classes occur."""
    path = existing(dataset, dataset.get("ann_file", ""), where, folder=False)
    folder = existing(dataset, dataset.get("data_prefix", {}).get("img", ""), where, folder=True)
    sections = _sections(path)
    classes = class_names(dataset, config.default_scope)
    used = _check_categories(sections["categories"], classes, path)
    images = _by_id(sections["images"], path, "image")
    _by_id(sections["annotations"], path, "annotation")
    _check_images(images.values(), folder, path, turn=turns(dataset))
    masks = _wants_masks(dataset)
    known = {category["id"] for category in sections["categories"]}
    for annotation in sections["annotations"]:
        _check_annotation(annotation, images, known, path, masks=masks)
    if where.startswith("train"):
        _check_use(sections["annotations"], used, path)


def _sections(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text())
        sections = {key: content[key] for key in ("images", "annotations", "categories")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    for key, entries in sections.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path}: {key}: is not a list of entries")
    return sections


def _check_categories(categories: list[dict[str, Any]], classes: list[str], path: Path) -> dict[int, str]:
    """The name of each category that is learned, by id.

    The library numbers the categories in the order of the file and takes the names from the config, so the two orders
    must be one.
    """
    for number, category in enumerate(categories):
        if "id" not in category or "name" not in category:
            raise UserError(f"{path}: category {number}: has no {'name' if 'id' in category else 'id'}")
    names = [category["name"] for category in categories]
    for name in classes:
        if name not in names:
            raise UserError(f"{path}: has no category {name!r}; {hint(str(name), map(str, names))}")
        if list(names).count(name) > 1:
            raise UserError(f"{path}: has the category {name!r} more than once; labels are numbered by name")
    order = [name for name in names if name in classes]
    if classes and order != classes:
        at = next(index for index, pair in enumerate(zip(order, classes, strict=False)) if pair[0] != pair[1])
        raise UserError(
            f"{path}: category {order[at]!r} stands where the classes have {classes[at]!r}; labels are numbered in the "
            f"order of the file, so give metainfo.classes in that order"
        )
    return {category["id"]: category["name"] for category in categories if category["name"] in order}


def _by_id(entries: list[dict[str, Any]], path: Path, what: str) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        if "id" not in entry:
            raise UserError(f"{path}: {what} number {number}: has no id")
        if entry["id"] in found:
            raise UserError(f"{path}: {what} {entry['id']}: the id stands twice")
        found[entry["id"]] = entry
    if not found:
        raise UserError(f"{path}: holds no {what}s")
    return found


def _check_images(images: Iterable[dict[str, Any]], folder: Path, path: Path, *, turn: bool) -> None:
    def check(image: dict[str, Any]) -> None:
        name = f"{path}: image {image['id']}"
        for key in ("file_name", "height", "width"):
            if key not in image:
                raise UserError(f"{name}: has no {key}")
        file = folder / str(image["file_name"])
        if not file.is_file():
            raise UserError(f"{path}: image {file} does not exist")
        size, written = picture_size(file, turn=turn), (image["width"], image["height"])
        if size != written:
            turned = " after the turn that its EXIF asks for" if picture_size(file, turn=False) == written else ""
            raise UserError(
                f"{name}: is {written[0]}x{written[1]} by the file, but {file} has {size[0]}x{size[1]} pixels{turned}"
            )

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(check, images):
            pass


def _check_annotation(
    annotation: dict[str, Any], images: dict[Any, dict[str, Any]], known: set[Any], path: Path, *, masks: bool
) -> None:
    name = f"{path}: annotation {annotation['id']}"
    if annotation.get("category_id") not in known:
        raise UserError(f"{name}: category_id {annotation.get('category_id')} is not one of its categories")
    image = images.get(annotation.get("image_id"))
    if image is None:
        raise UserError(f"{name}: image_id {annotation.get('image_id')} is not one of its images")
    box: Any = annotation.get("bbox")
    if not finite(box, 4):
        raise UserError(f"{name}: bbox {box} is not [x, y, width, height]")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise UserError(f"{name}: bbox {box} has a negative width or height")
    if min(x, y) < -SLACK or x + width > image["width"] + SLACK or y + height > image["height"] + SLACK:
        raise UserError(
            f"{name}: bbox {box} leaves its image of {image['width']}x{image['height']}; boxes are "
            f"[x, y, width, height], not corners"
        )
    if not finite([annotation.get("area")], 1):
        raise UserError(f"{name}: area is {annotation.get('area')!r}, not a number of pixels")
    if masks and not annotation.get("iscrowd") and not _is_mask(annotation.get("segmentation")):
        raise UserError(f"{name}: segmentation holds neither polygons nor a run-length mask, which the mask head needs")


def _is_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return "counts" in value and "size" in value
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(polygon, list) and len(polygon) >= 6 and finite(polygon, len(polygon)) for polygon in value)
    )


def _wants_masks(dataset: ConfigDict) -> bool:
    return any(step.get("with_mask") for step in dataset.get("pipeline") or [])


def _check_use(annotations: list[dict[str, Any]], classes: dict[int, str], path: Path) -> None:
    """Something can be learned; classes without a box are named."""
    counts = Counter(
        annotation["category_id"]
        for annotation in annotations
        if not annotation.get("iscrowd") and annotation["bbox"][2] >= 1 and annotation["bbox"][3] >= 1
    )
    absent = [name for key, name in classes.items() if not counts[key]]
    if len(absent) == len(classes):
        raise UserError(f"{path}: no box of any class can be used (at least 1x1 pixel, not iscrowd)")
    if absent:
        text = f"{path}: no box of {len(absent)} of {len(classes)} classes: {', '.join(map(str, absent[:10]))}"
        print_log(text + (", ..." if len(absent) > 10 else ""), logger="current")
