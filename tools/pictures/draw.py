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


Prediction = Classes | Objects | Labels


SHORT_SIDE = 420  # small images are enlarged before drawing, so that lines and letters stay fine
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


def draw(image: Image.Image, prediction: Prediction) -> Image.Image:
    """The image with a prediction drawn in; classes and a legend stand below it."""
    if isinstance(prediction, Objects):
        return draw_objects(image, prediction)
    if isinstance(prediction, Labels):
        return draw_labels(image, prediction)
    return draw_classes(image, prediction)


def enlarge(image: Image.Image) -> tuple[Image.Image, float]:
    """The image as RGB with a short side of at least :data:`SHORT_SIDE`, and the factor."""
    factor = max(1.0, SHORT_SIDE / min(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC), factor


def draw_objects(image: Image.Image, objects: Objects) -> Image.Image:
    """Boxes with class and score, masks as coloured veils."""
    canvas, factor = enlarge(image)
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


def draw_labels(image: Image.Image, labels: Labels) -> Image.Image:
    """Each pixel veiled in the colour of its class, but for what is `background`; below, a legend with the shares."""
    canvas, _ = enlarge(image)
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


def draw_classes(image: Image.Image, classes: Classes) -> Image.Image:
    """The image, and below it a bar for each class with its probability."""
    canvas, _ = enlarge(image)
    page = Image.new("RGB", (canvas.width, canvas.height + LINE * len(classes.best) + MARGIN), PAPER)
    page.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(page)
    for row, (name, probability) in enumerate(classes.best):
        top = canvas.height + MARGIN // 2 + row * LINE
        pen.rectangle((0, top, probability * (page.width - 1), top + LINE - 4), fill=(170, 205, 250))
        pen.text((MARGIN, top + 1), _fit(pen, f"{probability:6.1%}  {name}", page.width - MARGIN), INK, _font())
    return page


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], names: Sequence[str]) -> Image.Image:
    """A table of pictures: a title above each column and a name above each row."""
    widths = [max(row[column].width for row in rows) for column in range(len(titles))]
    heights = [max(picture.height for picture in row) for row in rows]
    width = sum(widths) + MARGIN * (len(widths) + 1)
    page = Image.new("RGB", (width, sum(heights) + (len(rows) + 1) * (LINE + MARGIN) + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    lefts = [MARGIN + sum(widths[:column]) + MARGIN * column for column in range(len(widths))]
    for left, title, space in zip(lefts, titles, widths, strict=True):
        pen.text((left, MARGIN), _fit(pen, title, space), INK, _font())
    top = MARGIN + LINE
    for row, name, height in zip(rows, names, heights, strict=True):
        pen.text((MARGIN, top), _fit(pen, name, width - 2 * MARGIN), GREY, _font())
        for left, picture in zip(lefts, row, strict=True):
            page.paste(picture, (left, top + LINE))
        top += height + LINE + MARGIN
    return page


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
