"""One picture of the thesis: the weights of trained models at the same places of two images."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from models.theory.windows import Window, window_of
from tools.theory.learned import Trained, mixer_inputs, places_of_interest

PLACE_COLOURS = ("#e6550d", "#31a354", "#3182bd")
PLACES = len(PLACE_COLOURS)


def draw(models: Sequence[Trained], images: Sequence[Tensor], path: Path) -> None:
    """Draw to an image file: above, the images with their places; below, a line of windows for each model.

    The windows are of the first block and channel 0; each line has one scale of colours.
    """
    figure = plt.figure(figsize=(8.6, 1.2 * len(models) + 2.2))
    widths = [*[1] * PLACES, 0.3] * len(images)  # the last gap is a margin
    heights = [1.8, *[1] * len(models)]
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    grid.update(left=0.16, right=1, top=0.99, bottom=0.02, hspace=0.1, wspace=0.08)
    for index, image in enumerate(images):
        first = index * (PLACES + 1)
        _image(figure.add_subplot(grid[0, first : first + PLACES]), models[0], image)
    for line, trained in enumerate(models):
        windows = [_windows(trained, image) for image in images]
        limit = max(float(window.weights.abs().max()) for own in windows for window in own)
        for index, own in enumerate(windows):
            for place, window in enumerate(own):
                axis = figure.add_subplot(grid[line + 1, index * (PLACES + 1) + place])
                _window(axis, window, limit, PLACE_COLOURS[place])
                if index == place == 0:
                    label = trained.label.replace(" (", "\n(")
                    axis.set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center", parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _windows(trained: Trained, image: Tensor) -> list[Window]:
    x = mixer_inputs(trained, image)[0]
    places = places_of_interest(image, (x.shape[1], x.shape[2]))
    return [window_of(trained.mixers()[0], x, place, 0) for place in places]


def _window(axis: Axes, window: Window, limit: float, colour: str) -> None:
    axis.imshow(window.weights.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.plot(window.centre[1], window.centre[0], ".", color="black", markersize=4)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2)


def _image(axis: Axes, trained: Trained, image: Tensor) -> None:
    """The image, with the places of the first stage's map."""
    height, width = mixer_inputs(trained, image)[0].shape[1:3]
    axis.imshow(image[0].mean(0).numpy(), cmap="gray", extent=(0, width, height, 0))
    for (row, column), colour in zip(places_of_interest(image, (height, width)), PLACE_COLOURS, strict=True):
        axis.plot(column + 0.5, row + 0.5, "s", color=colour, markersize=7, markeredgecolor="white")
    axis.set_axis_off()
