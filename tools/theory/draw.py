"""Drawing as SVG and PNG."""

import io
from html import escape

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

INK, MUTED, GRID = "#1b1f24", "#5b6570", "#d5dbe1"
ACCENT, SECOND, THIRD = "#0b6e99", "#c4501b", "#4b7f2b"


def document(width: float, height: float, shapes: list[str], title: str) -> str:
    """An SVG with a title for screen readers; no fixed size, so the page decides."""
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'font-family="system-ui, sans-serif">\n<title>{escape(title)}</title>\n{body}\n</svg>'
    )


def line(x1: float, y1: float, x2: float, y2: float, color: str = INK, width: float = 1.5, extra: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width:g}" {extra}/>'
    )


def circle(x: float, y: float, radius: float, fill: str, stroke: str = INK) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = INK) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.5"/>'
    )


def text(
    x: float, y: float, words: str, *, size: float = 14, color: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{color}" '
        f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def arrow_heads(*colors: str) -> str:
    """Definitions of one arrow head for each colour, used as ``marker-end="url(#head-N)"``."""
    marks = "".join(
        f'<marker id="head-{i}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
        for i, color in enumerate(colors)
    )
    return f"<defs>{marks}</defs>"


GREY = np.array([150, 160, 170], dtype=np.uint8)


def colored(values: Tensor, *, limit: float | None = None, signed: bool = True) -> np.ndarray:
    """(H, W) numbers as (H, W, 3) bytes; ``limit`` is the number of the strongest colour, else the largest one."""
    array = values.detach().double().numpy()
    limit = limit or float(np.abs(array).max()) or 1.0
    scaled = array / limit
    table = colormaps["RdBu_r"] if signed else colormaps["viridis"]
    shades = table((scaled + 1) / 2 if signed else scaled)
    return (shades[..., :3] * 255).round().astype(np.uint8)


def enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels.repeat(factor, 0).repeat(factor, 1)


def with_lines(pixels: np.ndarray, every: int) -> np.ndarray:
    """Thin lines between blocks of ``every`` pixels, and around all."""
    pixels = pixels.copy()
    for axis_end in range(every, pixels.shape[0], every):
        pixels[axis_end - 1 : axis_end] = GREY
    for axis_end in range(every, pixels.shape[1], every):
        pixels[:, axis_end - 1 : axis_end] = GREY
    pixels[[0, -1]] = GREY
    pixels[:, [0, -1]] = GREY
    return pixels


def png(pixels: np.ndarray) -> bytes:
    """Indexed where few colours allow it, which halves the page."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
