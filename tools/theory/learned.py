"""Learned weights side by side: the same outputs of each trained model, over positions, images and channels."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.theory.images import colored, enlarged, png
from tools.theory.trained import Trained, mixer_inputs
from tools.theory.windows import Window, window_of

MARK = np.array([0, 190, 60], dtype=np.uint8)
PLACES = ("brightest", "edge", "darkest")
LABELS = {
    "swin": "Local attention (Swin)",
    "dw_conv": "DW-Conv.",
    "d_dw_conv": "D-DW-Conv.",
    "i_dynamic": "I-Dynamic",
}


@dataclass(frozen=True)
class Row:
    """One operator: its label and a picture for each column."""

    label: str
    pictures: list[bytes]


@dataclass(frozen=True)
class Sheet:
    """A table of pictures."""

    columns: list[str]
    rows: list[Row]


def picture_of(window: Window, limit: float, *, pixels: int = 84) -> bytes:
    """A window of weights, ``limit`` the strongest colour, the place of the output marked by a dot."""
    factor = max(1, pixels // len(window.weights))
    shades = enlarged(colored(window.weights, limit=limit), factor)
    row, column = (int((index + 0.5) * factor) for index in window.centre)
    dot = max(1, factor // 6)
    shades[row - dot : row + dot + 1, column - dot : column + dot + 1] = MARK
    return png(shades)


def _row(trained: Trained, windows: list[Window]) -> Row:
    """One scale of colours for all windows of an operator, so that they can be compared."""
    limit = max(float(window.weights.abs().max()) for window in windows)
    return Row(LABELS.get(trained.name, trained.name), [picture_of(window, limit) for window in windows])


def places_of_interest(image: Tensor, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Places of a map over an image (1, C, H, W): the brightest, the strongest edge, the darkest, not at the border."""
    light = F.adaptive_avg_pool2d(image.mean(1, keepdim=True), size)[0, 0]
    down, across = torch.gradient(light)
    border = torch.ones(size, dtype=torch.bool)
    border[size[0] // 6 : size[0] - size[0] // 6, size[1] // 6 : size[1] - size[1] // 6] = False
    return [
        divmod(int(score.masked_fill(border, float("-inf")).argmax()), size[1])
        for score in (light, down.square() + across.square(), -light)
    ]


def over_positions(models: list[Trained], image: Tensor) -> Sheet:
    """The first block: one channel at the places of interest of one image."""
    rows = []
    for trained in models:
        x = mixer_inputs(trained, image)[0]
        places = places_of_interest(image, (x.shape[1], x.shape[2]))
        rows.append(_row(trained, [window_of(trained.mixers()[0], x, place, 0) for place in places]))
    return Sheet(list(PLACES), rows)


def over_channels(models: list[Trained], image: Tensor) -> Sheet:
    """The second stage: one position of one image, for neighbouring channels and one of the second half."""
    rows = []
    for trained in models:
        x = mixer_inputs(trained, image)[1]
        place = (x.shape[1] // 2, x.shape[2] // 2)
        channels = (0, 1, 2, x.shape[-1] // 2)
        rows.append(_row(trained, [window_of(trained.mixers()[1], x, place, channel) for channel in channels]))
    return Sheet([f"channel {c}" for c in ("0", "1", "2", "C/2")], rows)


def shown_image(image: Tensor, size: tuple[int, int]) -> bytes:
    """The image with the places of interest of the first stage's map marked."""
    grey = image[0].mean(0)
    grey = (grey - grey.min()) / (grey.max() - grey.min() + 1e-9)
    factor = max(1, 168 // len(grey))
    pixels = enlarged((grey.numpy()[..., None] * 255).astype(np.uint8).repeat(3, -1), factor)
    for row, column in places_of_interest(image, size):
        top, left = int((row + 0.5) * pixels.shape[0] / size[0]), int((column + 0.5) * pixels.shape[1] / size[1])
        pixels[top - 4 : top + 5, left - 4 : left + 5] = MARK
    return png(pixels)
