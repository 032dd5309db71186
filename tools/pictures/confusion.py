"""A confusion matrix that can be read with two classes and with a thousand."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from engine.files import write_atomic
from tools.pictures.classifier import in_words

DPI = 100
SIDE = 900  # pixels of the matrix, about: each class has a whole number of them
LARGEST_CELL, SMALLEST_SEEN = 110, 4  # pixels of a class; smaller ones are marked where they matter
NARROWEST = 760  # pixels that the title needs
MARKED = 10.0  # percent of a class's images, in one mistake
LABELS = 45  # most names on an axis
COUNTED = 25  # most classes whose cells hold their percentage
MISTAKES = 12  # listed beside the matrix
LETTERS = 22  # of a name
EDGE, LINE, LETTER = 24, 19, 7.4  # pixels: around everything, of a line of a list, of a letter
Entries = list[tuple[str, str]]  # a number and what it is of


def draw_confusion(path: Path, table: np.ndarray, classes: Sequence[str]) -> None:
    """Draw the percentage of each class's images that were taken for each class, and list the most frequent mistakes.

    Classes without images that are no answer, either, are left out. Names that do not fit beside the matrix are
    thinned.

    Args:
        table: int (true, guessed), images. classes: the names of both.

    Raises:
        OSError: the file cannot be written.
    """
    words = zip(classes, in_words(classes), strict=True)  # a synset has several words for one thing
    names = [_short(name if name == word else word.split(",")[0]) for name, word in words]
    shown = np.flatnonzero(table.sum(0) + table.sum(1))
    lists = {"most frequent mistakes": mistakes(table, names), "fewest right answers": lowest(table, names)}

    cell = min(LARGEST_CELL, max(1, SIDE // len(shown)))
    side = cell * len(shown)
    margin = EDGE + 30 + round(LETTER * max(len(names[index]) for index in shown))  # 30: the name of the axis
    longest = max(len(_row(entry)) for rows in lists.values() for entry in rows)
    beside = 3 * EDGE + round(LETTER * longest)
    width = max(NARROWEST, margin + side + beside)
    height = 2 * EDGE + max(side + margin, LINE * sum(len(rows) + 3 for rows in lists.values()))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    _title(figure, table, len(shown), EDGE / width, 1 - EDGE / height)
    place = (margin / width, 1 - (2 * EDGE + side) / height, side / width, side / height)
    _matrix(figure.add_axes(place), table[np.ix_(shown, shown)], [names[index] for index in shown], cell)
    _write_lists(figure, lists, (margin + side + EDGE) / width, 1 - 2 * EDGE / height, LINE / height)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomic(path, picture.getvalue())


def mistakes(table: np.ndarray, names: Sequence[str]) -> Entries:
    """The pairs of classes with the most images, those of the first taken for the second."""
    wrong, images = table - np.diag(table.diagonal()), table.sum(1)
    pairs = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]]
    found = [(f"{wrong[pair]} of {images[pair[0]]}", f"{names[pair[0]]} → {names[pair[1]]}") for pair in pairs]
    return [entry for entry, pair in zip(found, pairs, strict=True) if wrong[pair]] or [("", "none")]


def lowest(table: np.ndarray, names: Sequence[str]) -> Entries:
    """The classes of which the smallest share is right."""
    share = _percent(table).diagonal()
    order = [index for index in np.argsort(share, kind="stable") if not np.isnan(share[index])]
    return [(f"{share[index]:.1f}% of {table[index].sum()}", names[index]) for index in order[:MISTAKES]]


def _percent(table: np.ndarray) -> np.ndarray:
    """Of the images of each class; not a number where it has none."""
    images = table.sum(1, keepdims=True)
    return np.divide(100.0 * table, images, out=np.full(table.shape, np.nan), where=images > 0)


def _matrix(axes: Any, table: np.ndarray, names: list[str], cell: int) -> None:
    """The shares as colours; the square root of the scale keeps rare mistakes in sight."""
    share = _percent(table)
    axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest", aspect="auto")
    axes.set_facecolor("#dddddd")  # of a class without images, which has no shares
    step = -(-len(names) // LABELS)
    places = range(0, len(names), step)
    shown = [names[place] for place in places]
    axes.set_xticks(places, shown, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(places, shown, fontsize=9, parse_math=False)
    axes.tick_params(length=2)
    every = "" if step == 1 else f" (one name in {step})"
    axes.set_xlabel(f"taken for{every}", fontsize=11)
    axes.set_ylabel(f"class{every}", fontsize=11)
    if cell < SMALLEST_SEEN:
        rows, columns = np.nonzero((np.nan_to_num(share) >= MARKED) & ~np.eye(len(names), dtype=bool))
        axes.scatter(columns, rows, s=share[rows, columns], facecolors="none", edgecolors="#d9480f", linewidths=0.8)
    if len(names) <= COUNTED:
        for row, column in np.argwhere(np.nan_to_num(share) >= 0.5):
            ink = "white" if share[row, column] > 35 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=10, color=ink)


def _title(figure: Figure, table: np.ndarray, shown: int, left: float, top: float) -> None:
    images = int(table.sum())
    text = f"{table.trace() / images:.1%} of {images:,} images right, {shown:,} classes; percent of each class's images"
    if SIDE // shown < SMALLEST_SEEN:
        text += f", mistakes of {MARKED:.0f}% and more in circles"
    figure.text(left, top, text, fontsize=11, va="center")


def _write_lists(figure: Figure, lists: dict[str, Entries], left: float, top: float, line: float) -> None:
    for head, entries in lists.items():
        figure.text(left, top, head, fontsize=11, va="top", weight="bold")
        for entry in entries:
            top -= line
            figure.text(left, top, _row(entry), fontsize=8.5, va="top", family="monospace", parse_math=False)
        top -= 2 * line


def _row(entry: tuple[str, str]) -> str:
    return f"{entry[0]:>14}   {entry[1]}"


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
