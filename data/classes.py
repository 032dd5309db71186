"""What labels mean: the 1,000 ImageNet classes, the 200 of ImageNet-A and -R, ImageNetV2, or a list of your own."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm.data

from data.image_list import ImageList
from models.errors import UserError

_INFO = Path(timm.data.__file__).parent / "_info"


@dataclass(frozen=True)
class ClassList:
    """Class names in label order, and which of a model's 1,000 outputs they are (None: all, in order)."""

    names: list[str]
    outputs: list[int] | None = None


def load_classes(given: str) -> ClassList:
    """Load the list that `data.classes` names. Raises UserError for an unknown name or file."""
    if given in ("imagenet_a", "imagenet_r"):
        return ClassList(
            _lines(_INFO / f"{given}_synsets.txt"), [int(i) for i in _lines(_INFO / f"{given}_indices.txt")]
        )
    if given == "imagenet_v2":
        return ClassList([str(number) for number in range(1000)])  # its folders are named by label
    if given == "imagenet":
        return ClassList(_lines(_INFO / "imagenet_synsets.txt"))
    path = Path(given)
    if not path.is_file():
        raise UserError(
            f"data.classes={given}: neither imagenet, imagenet_a, imagenet_r, imagenet_v2 nor a file of class names"
        )
    return ClassList(_lines(path))


def _lines(path: Path) -> list[str]:
    return path.read_text().split()


def relabel(records: ImageList, wanted: list[str]) -> ImageList:
    """Give the labels the order of `wanted`. Raises UserError for a class that is not in it."""
    if records.classes == wanted:
        return records
    number = {name: label for label, name in enumerate(wanted)}
    unknown = [name for name in records.classes if name not in number]
    if unknown:
        raise UserError(f"class {unknown[0]!r} of the data is not in data.classes ({len(wanted)} names)")
    table = np.array([number[name] for name in records.classes], dtype=np.int32)
    return replace(records, labels=table[records.labels], classes=wanted)


def are_named(classes: list[str]) -> bool:
    """Whether the classes have names; lists of plain labels only have numbers."""
    return classes != [str(number) for number in range(len(classes))]


def check_same_classes(train: list[str], val: list[str]) -> None:
    """Raise UserError where validation labels would mean other classes than training labels."""
    if not (are_named(train) and are_named(val)):
        if len(val) > len(train):
            raise UserError(f"val has labels up to {len(val) - 1}, train only {len(train)} classes")
        return
    missing, extra = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if extra or missing:
        example = f"{extra[0]!r} is only in val" if extra else f"{missing[0]!r} is only in train"
        raise UserError(f"train has {len(train)} classes and val {len(val)}: {example}; give data.classes for a subset")
    if train != val:
        raise UserError("train and val list the same classes in another order")
