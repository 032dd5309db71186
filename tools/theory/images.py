"""Matrices and weights as pictures: PNG bytes from arrays of numbers, zero white, signs in two colours."""

import io

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

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
