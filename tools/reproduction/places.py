"""Where the validation sets of the paper lie below a folder, in the layouts in which people have them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from data.classes import imagenet_classes
from data.config import DataConfig
from data.image_list import ImageList
from data.readers import list_images, split_path
from engine.labels import real_labels
from models.errors import UserError
from models.released import Task

ANNOTATIONS = "annotations/instances_val2017.json"
INSIDE = {"train", "val", "test", "images", "annotations", "train2017", "val2017", "test2017"}  # of a data set
FORMS = [form for form in get_args(DataConfig.model_fields["format"].annotation) if form != "mnist5k"]
NEEDED: dict[Task, str] = {
    "classification": f"ImageNet: val/<synset>/*.JPEG or another form of docs/data.md ({', '.join(FORMS)})",
    "detection": f"COCO: val2017/ and {ANNOTATIONS}",
    "segmentation": "ADE20K: ADEChallengeData2016/images/validation and annotations/validation",
}
OPTIONS: dict[Task, str] = {"classification": "--imagenet", "detection": "--coco", "segmentation": "--ade20k"}


@dataclass(frozen=True)
class Place:
    """A validation set that is there."""

    root: Path
    images: int
    overrides: tuple[str, ...] = ()
    """How eval_cls.py reads it, besides ``data.root``."""


def find_places(root: Path, given: Mapping[Task, Path]) -> dict[Task, Place]:
    """The validation sets in ``root``, its folders and theirs, by task.

    Args:
        given: where the set of a task lies, in place of a search.

    Raises:
        UserError: none is there, one that was given is not, or a ``real.json`` beside them is not ReaL's.
    """
    if not root.is_dir():
        raise UserError(f"DATA: there is no folder {root}")
    folders = list(_folders(root))
    found = {}
    for task, look in _LOOKS.items():
        place = next(filter(None, map(look, [given[task]] if task in given else folders)), None)
        if place is not None:
            found[task] = place
        elif task in given:
            raise UserError(f"{OPTIONS[task]} {given[task]}: wanted is {NEEDED[task]}")
    if not found:
        raise UserError(
            f"DATA: {root} and its folders have no validation set; wanted is {'; or '.join(NEEDED.values())}"
        )
    for folder in folders:
        _check_real(folder / "real.json")
    return found


def _folders(root: Path) -> Iterator[Path]:
    """The folder, those in it and those in these, but none inside a data set."""
    yield root
    for child in _below(root):
        yield child
        yield from _below(child)


def _below(folder: Path) -> list[Path]:
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in inner if path.name not in INSIDE)


def _imagenet(folder: Path) -> Place | None:
    for form in FORMS:
        name = str(split_path(_config(folder, form), "val").relative_to(folder))
        if any(folder.glob(name)):
            if next((folder / name).glob("ILSVRC2012_val_*"), None) is not None:
                raise UserError(
                    f"{folder / name}: its pictures lie in no class folders; tools/prepare_imagenet.py builds these "
                    f"from the official archives"
                )
            place = _read_imagenet(folder, form)
            if place is not None:
                return place
    return None


def _read_imagenet(folder: Path, form: str) -> Place | None:
    """What lies in a folder in one form, if it is ImageNet's by its classes, or by its names if labels are numbers."""
    try:
        records = list_images(_config(folder, form), "val")
    except UserError as error:
        if re.search("imagenet|ilsvrc", folder.name, re.IGNORECASE):
            raise UserError(f"{folder}: {error}") from None
        return None  # some other data set
    overrides = (f"data.format={form}",)
    if records.numbered and _has_imagenets_names(records):
        return Place(folder, len(records), (*overrides, "data.classes=imagenet"))
    return Place(folder, len(records), overrides) if set(records.classes) <= set(imagenet_classes()) else None


def _config(folder: Path, form: str) -> DataConfig:
    return DataConfig.model_validate({"root": folder, "format": form})


def _has_imagenets_names(records: ImageList) -> bool:
    return re.search(r"ILSVRC2012_val_\d{8}", records.name(0)) is not None


def _coco(folder: Path) -> Place | None:
    path = folder / ANNOTATIONS
    if not path.is_file() or not (folder / "val2017").is_dir():
        return None
    try:
        return Place(folder, len(json.loads(path.read_text(encoding="utf-8"))["images"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no COCO annotation file ({type(error).__name__}: {error})") from None


def _ade20k(folder: Path) -> Place | None:
    """By the names of its pictures: other sets have the same layout."""
    images = list(folder.glob("images/validation/ADE_val_*.jpg"))
    labels = folder / "annotations" / "validation"
    return Place(folder, len(images)) if images and labels.is_dir() else None


_LOOKS: dict[Task, Callable[[Path], Place | None]] = {
    "classification": _imagenet,
    "detection": _coco,
    "segmentation": _ade20k,
}


def _check_real(path: Path) -> None:
    """ReaL's labels come with timm; a file of them that is there must say the same."""
    if not path.is_file():
        return
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == real_labels()
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    if not same:
        raise UserError(f"{path}: not the ReaL labels that are evaluated by; take it away, or the published file")
