"""The figure of a sweep: one panel for each group, mean and standard deviation over the seeds.

Faint bars show what the size of the test set alone leaves open (95%), so that nobody reads noise as an answer.
"""

import math
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from tools.sweeps.grid import Group
from tools.sweeps.report import METRICS, SweepResult, SweepRow

COLUMNS = 3
COLOUR = "#2a6f97"


def draw(results: SweepResult, path: Path) -> None:
    """Draw results to an image file; groups with `x` as a curve, the others as dots with their names."""
    rows = results.by_name
    groups = results.panels
    columns = min(COLUMNS, len(groups))
    lines = math.ceil(len(groups) / columns)
    heights = [max(height_of(group) for group in groups[k * columns : (k + 1) * columns]) for k in range(lines)]
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(5.0 * columns, sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    shown = [rows[name] for group in groups for name in group.runs if rows[name].mean is not None]
    limits = common_limits(shown)
    for axis, group in zip(axes.flat, groups, strict=False):
        done = [(index, rows[name]) for index, name in enumerate(group.runs) if rows[name].mean is not None]
        (curve if group.x else dots)(axis, group, done)
        (axis.set_ylim if group.x else axis.set_xlim)(limits)
        axis.set_title(group.title, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(textwrap.fill(results.title, 50 * columns), fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def height_of(group: Group) -> float:
    """Inches of a panel."""
    return 2.8 if group.x else 1.0 + 0.34 * len(group.runs)


def spreads(done: list[tuple[int, SweepRow]]) -> list[float]:
    """Half the length of each error bar; 0 where there is one seed alone."""
    return [row.std or 0.0 for _, row in done]


def sampling_error(row: SweepRow) -> float:
    """Half the 95% interval, in points, of an accuracy that was measured on this many images; 0 for other metrics."""
    if row.task != "classification":
        return 0.0
    share = row.level / 100
    return 196 * math.sqrt(share * (1 - share) / row.runs[0]["eval_images"])


def common_limits(rows: list[SweepRow]) -> tuple[float, float]:
    """One range for all panels, so that a difference has the same length everywhere."""
    errors = [max(sampling_error(row), row.std or 0.0) for row in rows]
    low = min((min(row.level - error, *row.scores) for row, error in zip(rows, errors, strict=True)), default=0.0)
    high = max((max(row.level + error, *row.scores) for row, error in zip(rows, errors, strict=True)), default=100.0)
    margin = 0.05 * (high - low) + 0.1
    return low - margin, high + margin


def curve(axis: Axes, group: Group, done: list[tuple[int, SweepRow]]) -> None:
    """Accuracy over a quantity, as in Figure 3."""
    assert group.x is not None
    x = [group.x[index] for index, _ in done]
    wide = [sampling_error(row) for _, row in done]
    axis.errorbar(x, [row.level for _, row in done], wide, fmt="none", color=COLOUR, alpha=0.25, linewidth=4)
    axis.errorbar(x, [row.level for _, row in done], spreads(done), marker="o", color=COLOUR, capsize=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks(group.x, [f"{value:g}" for value in group.x])
    axis.minorticks_off()
    axis.set_xlabel(group.xlabel)
    axis.set_ylabel(metric_name(done))


def dots(axis: Axes, group: Group, done: list[tuple[int, SweepRow]]) -> None:
    """Accuracy of each run, named on the left; every seed as a faint dot."""
    labels = [row.label for _, row in done]
    y = list(range(len(done)))
    for height, (_, row) in zip(y, done, strict=True):
        seeds = row.scores
        axis.plot(seeds, [height] * len(seeds), ".", color=COLOUR, alpha=0.35)
    means = [row.level for _, row in done]
    wide = [sampling_error(row) for _, row in done]
    axis.errorbar(means, y, xerr=wide, fmt="none", color=COLOUR, alpha=0.25, linewidth=4)
    axis.errorbar(means, y, xerr=spreads(done), fmt="o", color=COLOUR, capsize=3)
    axis.set_yticks(y, labels, fontsize=9)
    axis.set_ylim(max(1, len(done)) - 0.5, -0.5)
    axis.set_xlabel(metric_name(done))


def metric_name(done: list[tuple[int, SweepRow]]) -> str:
    """The label of the axis of a group's results."""
    return METRICS[done[0][1].task].name if done else ""
