"""Lists of paths and labels: a CSV file, or the tab-separated map of Swin's zip files."""

import csv
from collections.abc import Iterable
from pathlib import Path

from data.image_list import ImageList, check_name, pack, parent_class
from models.errors import UserError


def scan_csv(path: Path) -> ImageList:
    """List the images of a CSV file `path,label` (a header line is allowed); paths are below `data.root`.

    Labels are numbers, or class names in sorted order. Raises UserError naming the line.
    """
    if not path.is_file():
        raise UserError(f"there is no CSV file {path}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = _rows(csv.reader(file), path)
    if rows and rows[0][1].lower() in ("label", "class", "target"):
        rows = rows[1:]
    return pack(*_pack_rows(rows, path))


def read_map(path: Path) -> tuple[list[str], list[int], list[str]]:
    """Read `name<TAB>label` lines; returns names, labels and classes. Raises UserError naming the line."""
    with path.open(encoding="utf-8") as file:
        rows = _rows((line.rstrip("\r\n").split("\t") for line in file), path)
    return _pack_rows(rows, path)


def _rows(rows: Iterable[list[str]], source: Path) -> list[tuple[str, str]]:
    found = []
    for number, row in enumerate(rows, start=1):
        if not row or row == [""]:
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise UserError(f"{source} line {number}: expected a path and a label, found {len(row)} fields")
        found.append((check_name(row[0].strip(), source), row[1].strip()))
    return found


def _pack_rows(rows: list[tuple[str, str]], source: Path) -> tuple[list[str], list[int], list[str]]:
    if not rows:
        raise UserError(f"{source} lists no images")
    names = [name for name, _ in rows]
    texts = [text for _, text in rows]
    if not all(text.isdigit() for text in texts):
        classes = sorted(set(texts))
        number = {name: label for label, name in enumerate(classes)}
        return names, [number[text] for text in texts], classes
    labels = [int(text) for text in texts]
    if max(labels) >= 1 << 20:
        raise UserError(f"{source}: label {max(labels)} is no class number")
    return names, labels, _class_names(names, labels, source)


def _class_names(names: list[str], labels: list[int], source: Path) -> list[str]:
    """Name the classes after the folders where each label has one folder of its own, else by number."""
    numbers = [str(number) for number in range(max(labels) + 1)]
    folders: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        if "/" not in name or folders.setdefault(label, parent_class(name, source)) != parent_class(name, source):
            return numbers
    if len(folders) != len(numbers) or len(set(folders.values())) != len(numbers):
        return numbers
    return [folders[label] for label in range(len(numbers))]
