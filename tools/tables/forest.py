"""The picture of the answers: a line for each question, the paper's difference beside ours with its interval."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from tools.tables.questions import AGREES, CANNOT_TELL, DISAGREES, NOT_RUN, Answer

COLOURS = {AGREES: "#1b7f4d", DISAGREES: "#c2410c", CANNOT_TELL: "#6b7280", NOT_RUN: "#6b7280"}
INCHES_A_LINE = 0.4


def draw(answers: Sequence[tuple[str, Answer]], path: Path) -> None:
    """Draw questions with their answers, from top to bottom, to an image file."""
    figure, axis = plt.subplots(figsize=(10, 1.5 + INCHES_A_LINE * len(answers)), layout="constrained")
    axis.axvline(0, color="black", linewidth=0.8)
    for line, (_, found) in enumerate(answers):
        colour = COLOURS[found.verdict]
        axis.plot(found.paper, line - 0.17, "D", color="black", markerfacecolor="white", markersize=5)
        if found.seeds:
            low, high = found.means
            half = found.difference.half if found.difference else 0.0
            axis.errorbar(high - low, line + 0.12, xerr=half, fmt="o", color=colour, capsize=3, markersize=5)
        axis.annotate(
            found.verdict, (1.01, line), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=colour
        )
    axis.set_yticks(range(len(answers)), [fill(question, 52) for question, _ in answers], fontsize=9)
    axis.set_ylim(len(answers) - 0.4, -0.6)
    axis.set_xlabel("difference in points: better to the right")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    marks = [
        Line2D([], [], marker="D", linestyle="", color="black", markerfacecolor="white", label="the paper (T models)"),
        Line2D([], [], marker="o", color=COLOURS[CANNOT_TELL], label="here, with its 95% interval"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
