"""What a model says about one image, in a form that can be drawn and written as JSON."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont


@dataclass(frozen=True)
class Classes:
    """The most likely classes: (name, probability), the likeliest first."""

    best: list[tuple[str, float]]

    def summary(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"classes": [{"name": name, "probability": round(value, 4)} for name, value in self.best]}

    def table(self) -> list[dict[str, object]]:
        """One row for a table."""
        row: dict[str, object] = {}
        for place, (name, value) in enumerate(self.best, start=1):
            row |= {f"class_{place}": name, f"probability_{place}": round(value, 4)}
        return [row]


@dataclass(frozen=True)
class Found:
    """One object: class name and number, score, box (left, top, right, bottom) in pixels, and a mask (H, W) or None."""

    name: str
    index: int
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None


@dataclass(frozen=True)
class Objects:
    """All objects above the score threshold, the surest first."""

    found: list[Found]

    def summary(self) -> dict[str, object]:
        """Plain values for JSON; a mask is given by its area in pixels."""
        rows = []
        for item in self.found:
            row: dict[str, object] = {"name": item.name, "score": round(item.score, 4)}
            row["box"] = [round(value, 1) for value in item.box]
            if item.mask is not None:
                row["mask_pixels"] = int(item.mask.sum())
            rows.append(row)
        return {"objects": rows}

    def table(self) -> list[dict[str, object]]:
        """A row for each object; one that is empty where there is none."""
        rows: list[dict[str, object]] = []
        for item in self.found:
            box = zip(("left", "top", "right", "bottom"), (round(value, 1) for value in item.box), strict=True)
            row: dict[str, object] = {"class": item.name, "score": round(item.score, 4), **dict(box)}
            rows.append(row if item.mask is None else {**row, "mask_pixels": int(item.mask.sum())})
        return rows or [{}]


@dataclass(frozen=True)
class Labels:
    """A class for each pixel: (H, W) int, and the names of all classes."""

    label: np.ndarray
    names: list[str]

    def shares(self) -> list[tuple[int, float]]:
        """(class, share of the image) of the classes that occur, the largest first."""
        classes, counts = np.unique(self.label, return_counts=True)
        order = np.argsort(-counts)
        return [(int(classes[i]), float(counts[i] / self.label.size)) for i in order]

    def summary(self) -> dict[str, object]:
        """Plain values for JSON: the share of each class."""
        return {"labels": {self.names[index]: round(share, 4) for index, share in self.shares()}}

    def table(self) -> list[dict[str, object]]:
        """A row for each class that occurs."""
        return [{"class": self.names[index], "share": round(share, 4)} for index, share in self.shares()]


Prediction = Classes | Objects | Labels


SHORT_SIDE = 420  # small images are enlarged before drawing, so that lines and letters stay fine
PAGE = (1744, 1180)  # most pixels of a sheet, but where a single row needs more
SMALLEST_SIDE = 160  # of a picture on a sheet
MARGIN, LINE = 8, 22
VEIL, STRONG_VEIL = 0.55, 0.8  # opacity of labels: strong where the background is left as it is
SHADES = (0.95, 0.6, 0.8)
Colour = tuple[int, int, int]
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (120, 120, 120)


def colour_of(index: int) -> Colour:
    """A colour for a class number; neighbours differ much (steps of the golden angle around the colour circle), and
    those that come near in hue differ in brightness."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803398875 % 1.0, 0.75 if index % 2 else 0.95, SHADES[index % 3])
    return int(red * 255), int(green * 255), int(blue * 255)


def draw(image: Image.Image, prediction: Prediction, side: int | None = None) -> Image.Image:
    """The image with a prediction drawn in; classes and a legend stand below it.

    Args:
        side: of the square that the image is scaled to fit; letters and lines have their size. None: see
            :func:`enlarge`.
    """
    canvas, factor = enlarge(image) if side is None else fit(image, side)
    if isinstance(prediction, Objects):
        return draw_objects(canvas, prediction, factor)
    if isinstance(prediction, Labels):
        return draw_labels(canvas, prediction)
    return draw_classes(canvas, prediction, side or canvas.width)


def enlarge(image: Image.Image) -> tuple[Image.Image, float]:
    """The image as RGB with a short side of at least :data:`SHORT_SIDE`, and the factor."""
    return _scaled(image, max(1.0, SHORT_SIDE / min(image.size)))


def fit(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    """The image as RGB with a long side of ``side``, and the factor."""
    return _scaled(image, side / max(image.size))


def _scaled(image: Image.Image, factor: float) -> tuple[Image.Image, float]:
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), factor


def draw_objects(canvas: Image.Image, objects: Objects, factor: float) -> Image.Image:
    """Boxes with class and score, masks as coloured veils, on an image that was scaled by ``factor``."""
    pixels = np.asarray(canvas, np.float32).copy()
    for item in reversed(objects.found):
        if item.mask is not None:
            mask = Image.fromarray(item.mask.astype(np.uint8) * 255).resize(canvas.size, Image.Resampling.BILINEAR)
            inside = np.asarray(mask) > 127
            pixels[inside] = 0.5 * pixels[inside] + 0.5 * np.array(colour_of(item.index), np.float32)
    canvas = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for item in reversed(objects.found):
        colour = colour_of(item.index)
        box = [value * factor for value in item.box]
        pen.rectangle(box, outline=colour, width=3)
        _tag(pen, (box[0], box[1]), f"{item.name} {item.score:.2f}", colour, canvas.size)
    return canvas


def draw_labels(canvas: Image.Image, labels: Labels) -> Image.Image:
    """Each pixel veiled in the colour of its class, but for what is `background`; below, a legend with the shares."""
    palette = np.array([colour_of(index) for index in range(len(labels.names))], np.float32)
    strength = STRONG_VEIL if "background" in labels.names else VEIL
    veil = np.array([0.0 if name == "background" else strength for name in labels.names], np.float32)
    label = np.asarray(Image.fromarray(labels.label.astype(np.int32)).resize(canvas.size, Image.Resampling.NEAREST))
    opacity = veil[label][..., None]
    veiled = (1 - opacity) * np.asarray(canvas, np.float32) + opacity * palette[label]
    entries = [
        (f"{labels.names[i]} ({f'{share:.0%}' if share >= 0.005 else '<1%'})", colour_of(i) if veil[i] else PAPER)
        for i, share in labels.shares()
        if share >= 0.001
    ]
    return _with_legend(Image.fromarray(veiled.astype(np.uint8)), entries)


def draw_classes(canvas: Image.Image, classes: Classes, width: int) -> Image.Image:
    """The image, and below it a bar for each class with its probability, on a page of ``width`` pixels."""
    page = Image.new("RGB", (width, canvas.height + LINE * len(classes.best) + MARGIN), PAPER)
    page.paste(canvas, ((width - canvas.width) // 2, 0))
    pen = ImageDraw.Draw(page)
    for row, (name, probability) in enumerate(classes.best):
        top = canvas.height + MARGIN // 2 + row * LINE
        pen.rectangle((0, top, probability * (page.width - 1), top + LINE - 4), fill=(170, 205, 250))
        pen.text((MARGIN, top + 1), _fit(pen, f"{probability:6.1%}  {name}", page.width - MARGIN), INK, _font())
    return page


def sheet(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], names: Sequence[str], across: int = 1
) -> Image.Image:
    """A table of pictures: a title above each column and a name above each row; ``across`` rows stand side by side."""
    widths = [max(row[column].width for row in rows) for column in range(len(titles))]
    lefts = [MARGIN + sum(widths[:column]) + MARGIN * column for column in range(len(widths))]
    block, across = _width_of(rows), min(across, len(rows))
    heights = _heights(rows, across)
    page = Image.new("RGB", (block * across, sum(heights) + 2 * MARGIN + LINE), PAPER)
    pen = ImageDraw.Draw(page)
    for place in range(across):
        for left, title, space in zip(lefts, titles, widths, strict=True):
            pen.text((place * block + left, MARGIN), _fit(pen, title, space), INK, _font())
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        line, place = divmod(number, across)
        top = MARGIN + LINE + sum(heights[:line])
        pen.text((place * block + MARGIN, top), _fit(pen, name, block - 2 * MARGIN), GREY, _font())
        for left, picture in zip(lefts, row, strict=True):
            page.paste(picture, (place * block + left, top + LINE))
    return page


def sheets(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], names: Sequence[str]) -> list[Image.Image]:
    """As :func:`sheet`, on as many pages as it takes for each to fit a screen (:data:`PAGE`)."""
    across = max(1, PAGE[0] // _width_of(rows))
    pages, start = [], 0
    while start < len(rows):
        heights = _heights(rows[start:], across)
        lines = sum(MARGIN + LINE + sum(heights[: line + 1]) <= PAGE[1] for line in range(len(heights)))
        end = start + max(1, lines) * across
        pages.append(sheet(rows[start:end], titles, names[start:end], across))
        start = end
    return pages


def _width_of(rows: Sequence[Sequence[Image.Image]]) -> int:
    """The width of a row with its margins, where each column is as wide as its widest picture."""
    return sum(max(picture.width for picture in column) + MARGIN for column in zip(*rows, strict=True)) + MARGIN


def _heights(rows: Sequence[Sequence[Image.Image]], across: int) -> list[int]:
    """The height of each line of ``across`` rows, with the names above it."""
    lines = [rows[first : first + across] for first in range(0, len(rows), across)]
    return [max(picture.height for row in line for picture in row) + LINE + MARGIN for line in lines]


def side_of(columns: int) -> int:
    """The side of the pictures on a sheet, so that ``columns`` of them fit its width."""
    return max(SMALLEST_SIDE, min(SHORT_SIDE, (PAGE[0] - MARGIN) // columns - MARGIN))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(15)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The text, cut so that it is no wider than ``width`` pixels."""
    while len(text) > 4 and pen.textlength(text, _font()) > width:
        text = text[:-2].rstrip("…") + "…"
    return text


def _tag(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Text on a coloured ground above ``corner``, moved inside the picture."""
    width = pen.textlength(text, _font()) + 6
    left = min(max(0.0, corner[0]), max(0.0, size[0] - width))
    top = corner[1] - 19 if corner[1] >= 19 else corner[1]
    pen.rectangle((left, top, left + width, top + 19), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    pen.text((left + 3, top + 1), text, INK if bright else PAPER, _font())


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    columns = max(1, picture.width // 175)
    lines = -(-len(entries) // columns)
    page = Image.new("RGB", (picture.width, picture.height + lines * LINE + MARGIN), PAPER)
    page.paste(picture, (0, 0))
    pen = ImageDraw.Draw(page)
    space = page.width // columns
    for number, (text, colour) in enumerate(entries):
        left, top = number % columns * space, picture.height + MARGIN // 2 + number // columns * LINE
        pen.rectangle((left + 2, top + 3, left + 16, top + 17), fill=colour, outline=INK)
        pen.text((left + 22, top + 1), _fit(pen, text, space - 24), INK, _font())
    return page
