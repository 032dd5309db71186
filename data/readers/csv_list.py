"""Lists of paths and labels: a CSV file, or the tab-separated map of Swin's zip files."""

import csv
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.classes import numbers_of
from data.image_list import ImageList, check_name, check_once, first_folders, pack
from data.readers.folder import is_image_name
from models.errors import UserError

LABELS = 1 << 20  # more classes than any list has; a larger number is something else, such as a date


class Listing(NamedTuple):
    """Names and labels of a list, its classes, and whether these are only numbers."""

    names: list[str]
    labels: list[int]
    classes: list[str]
    numbered: bool


def scan_csv(path: Path) -> ImageList:
    """List the images of a CSV file `path,label`; a header line is passed over. Paths are below `data.root`.

    Labels are numbers, or class names in sorted order. Raises UserError naming the line.
    """
    if not path.is_file():
        raise UserError(f"there is no CSV file {path}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        found = _listing(csv.reader(file, strict=True), path)
    return pack(found.names, found.labels, found.classes, numbered=found.numbered)


def read_map(path: Path) -> Listing:
    """Read `name<TAB>label` lines. Raises UserError naming the line."""
    with path.open(encoding="utf-8-sig") as file:
        return _listing((line.rstrip("\r\n").split("\t") for line in file), path)


def _listing(rows: Iterable[list[str]], source: Path) -> Listing:
    try:
        found = list(_rows(rows, source))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{source}: cannot be read as a list, perhaps for a quote that is not closed ({error})"
        ) from None
    if not found:
        raise UserError(f"{source} lists no images")
    check_once([name for name, _ in found], source)
    return _labelled([name for name, _ in found], [text for _, text in found], source)


def _rows(rows: Iterable[list[str]], source: Path) -> Iterable[tuple[str, str]]:
    first = True
    for number, row in enumerate(rows, start=1):
        if not row or row == [""]:
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip() or "\n" in "".join(row).strip():
            raise UserError(f"{source} line {number}: expected a path and a label, found {len(row)} fields")
        name, label = row[0].strip(), row[1].strip()
        header, first = first and not is_image_name(name), False
        if not header:
            if not is_image_name(name):
                raise UserError(f"{source} line {number}: {name!r} is no name of an image")
            yield check_name(name, source), label


def _labelled(names: list[str], texts: list[str], source: Path) -> Listing:
    labels = as_numbers(texts, source)
    if labels is None:
        return Listing(names, *numbers_of(texts), False)
    folders = _folders(names, labels)
    numbers = [str(number) for number in range(max(labels) + 1)]
    return Listing(names, labels, folders or numbers, folders is None)


def as_numbers(texts: list[str], source: object) -> list[int] | None:
    """Labels that are numbers; None where one is a name. Raises UserError for a number that is none of a class."""
    if not all(text.isascii() and text.isdecimal() for text in texts):
        return None
    labels = [int(text) for text in texts]
    if max(labels) >= LABELS:
        raise UserError(f"{source}: label {max(labels)} is no class number")
    return labels


def _folders(names: list[str], labels: list[int]) -> list[str] | None:
    """The folders as names of the labels, where each label from 0 on has one folder of its own.

    It is the folder that the images lie in, or the first one in which they differ.
    """
    parents = [PurePosixPath(name).parent.name for name in names]
    if not all(parents):
        return None
    return _one_each(parents, labels) or _one_each(first_folders(names), labels)


def _one_each(folders: list[str], labels: list[int]) -> list[str] | None:
    named = dict(zip(labels, folders, strict=True))
    if len(named) != max(labels) + 1 or len(set(folders)) != len(named):
        return None
    if any(named[label] != folder for label, folder in zip(labels, folders, strict=True)):
        return None
    return [named[label] for label in range(len(named))]
