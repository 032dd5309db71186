"""What labels mean: the 1,000 ImageNet classes, the 200 of ImageNet-A and -R, ImageNetV2, or a list of your own.

Labels are matched by the names of classes, never by their place: those that a model was trained with
(:func:`match_classes`) and those that a data set has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm.data

from data.image_list import ImageList
from models.errors import UserError

_INFO = Path(timm.data.__file__).parent / "_info"
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class ClassList:
    """Class names in label order, as a data set writes them.

    meaning: what a model calls them, where that differs. restricted: only these classes may be guessed.
    """

    names: list[str]
    meaning: list[str] | None = None
    restricted: bool = False


def load_classes(given: str) -> ClassList:
    """Load the list that `data.classes` names. Raises UserError for an unknown name or file."""
    if given in ("imagenet_a", "imagenet_r"):
        return ClassList((_INFO / f"{given}_synsets.txt").read_text().split(), restricted=True)
    if given == "imagenet_v2":  # its folders are named by label
        return ClassList([str(number) for number in range(1000)], meaning=imagenet_classes())
    if given == "imagenet":
        return ClassList(imagenet_classes())
    path = Path(given)
    if not path.is_file():
        raise UserError(
            f"data.classes={given}: neither imagenet, imagenet_a, imagenet_r, imagenet_v2 nor a file of class names"
        )
    return ClassList(_names_of(path))


def imagenet_classes() -> list[str]:
    """The synsets of ImageNet-1K in label order, such as n01440764."""
    return (_INFO / "imagenet_synsets.txt").read_text().split()


def imagenet_synsets_of(words: Sequence[str]) -> list[str] | None:
    """The synsets, where words such as "tench, Tinca tinca" name all 1,000 classes of ImageNet-1K in their order.

    The first word counts, without the number that tells two classes of one name apart (crane, crane2).
    """
    synsets = imagenet_classes()
    if len(words) != len(synsets):
        return None
    lines = (_INFO / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    known = dict(line.split("\t", 1) for line in lines)
    same = all(
        word.split(",")[0].rstrip("0123456789").lower() == known[synset].split(",")[0].lower()
        for word, synset in zip(words, synsets, strict=True)
    )
    return synsets if same else None


def _names_of(path: Path) -> list[str]:
    """One name a line, with blanks inside where it has some."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.classes={path}: cannot be read ({error})") from None
    while lines and not lines[-1]:
        lines.pop()
    seen = set()
    for number, name in enumerate(lines, start=1):
        if not name or name in seen:
            raise UserError(f"data.classes={path}: line {number} {f'repeats {name!r}' if name else 'is empty'}")
        seen.add(name)
    if not lines:
        raise UserError(f"data.classes={path}: names no classes")
    return lines


def sort_classes(names: Iterable[str]) -> list[str]:
    """Names of class folders in label order: as text, but numbers by their value."""
    found = set(names)
    if all(name.isascii() and name.isdecimal() for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def numbers_of(names: list[str]) -> tuple[list[int], list[str]]:
    """Labels of images, and all classes in label order, from the name of each image's class."""
    classes = sort_classes(names)
    number = {name: label for label, name in enumerate(classes)}
    return [number[name] for name in names], classes


def relabel(records: ImageList, given: ClassList) -> ImageList:
    """Give the labels the order of a list, and their classes the names of it.

    Labels that are only numbers count in the list. Raises UserError for a class that is not in it.
    """
    wanted = given.meaning or given.names
    if records.numbered:
        if len(records.classes) > len(wanted) or given.restricted:
            last = len(records.classes) - 1
            raise UserError(f"data.classes has {len(wanted)} names, the labels of the data are numbers to {last}")
        return replace(records, classes=wanted, numbered=False)
    number = {name: label for label, name in enumerate(given.names)}
    unknown = [name for name in records.classes if name not in number]
    if unknown:
        raise UserError(f"class {unknown[0]!r} of the data is not in data.classes ({len(number)} names)")
    return _moved(records, [number[name] for name in records.classes], wanted)


def match_classes(records: ImageList, outputs: Sequence[str], whose: str) -> ImageList:
    """Give the labels the order of a model's outputs, by the names of the classes; some may have no images.

    Args:
        outputs: the names of the model's classes. whose: what they are the classes of, for messages.

    Raises UserError where the data have a class that the model does not know, naming both sides.
    """
    if records.classes == list(outputs):
        return records
    number = {name: label for label, name in enumerate(outputs)}
    unknown = [name for name in records.classes if name not in number]
    if records.numbered and unknown:
        raise UserError(
            f"the labels of the data are numbers, {whose} has the classes {shown_names(outputs)}; give data.classes, a "
            f"file with the name of each label"
        )
    if unknown:
        raise UserError(
            f"the data have {len(unknown)} of {len(records.classes)} classes that {whose} does not: "
            f"{shown_names(unknown)}; its {len(outputs)} classes are {shown_names(outputs)}"
        )
    return _moved(records, [number[name] for name in records.classes], list(outputs))


def _moved(records: ImageList, table: list[int], classes: list[str]) -> ImageList:
    labels = np.array(table, dtype=np.int32)[records.labels]
    return replace(records, labels=labels, classes=classes, numbered=False)


def without_images(records: ImageList, among: Sequence[str] | None = None) -> list[str]:
    """The classes that have no images, of all or of those in `among`."""
    counts = np.bincount(records.labels, minlength=len(records.classes))
    return [
        name for name, count in zip(records.classes, counts, strict=True) if not count and (not among or name in among)
    ]


def shown_names(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    text = ", ".join(map(repr, names[:SHOWN]))
    return f"{text} and {len(names) - SHOWN} more" if len(names) > SHOWN else text
