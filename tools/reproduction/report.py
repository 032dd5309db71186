"""Measured beside the paper's number and the one in the README of the release."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from models.released import Release
from tools.reproduction.evaluations import Evaluation
from tools.tables.entries import paper_prints
from tools.tables.printed import NOT_PRINTED
from tools.tables.recording import DENSE_METRICS, METRICS
from tools.tables.schema import Table
from tools.text import aligned

HEADER = ("file", "metric", "images", "paper", "README", "here", "- paper", "- README")
INTERVAL = "95% interval"


@dataclass(frozen=True)
class Measure:
    """One number of one evaluation, in percent.

    counts: right answers and images, of a share that is counted; None for AP and mIoU, which are none.
    """

    release: Release
    metric: str
    value: float
    images: int
    counts: tuple[int, int] | None = None


def measures(evaluation: Evaluation, result: dict[str, Any]) -> list[Measure]:
    """The numbers of a result under the names that the columns of the tables have."""
    release = evaluation.release
    if release.task == "classification":
        return [
            Measure(release, ours, result[theirs], result["images"], (result[f"correct{theirs[3:]}"], result["images"]))
            for theirs, ours in METRICS[evaluation.labels].items()
        ]
    return [
        Measure(release, ours, round(result[theirs] * factor, 4), result["eval_images"])
        for theirs, (ours, factor) in DENSE_METRICS[release.task].items()
        if isinstance(result.get(theirs), int | float)
    ]


def wilson(right: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson, 1927), in percent."""
    found = binomtest(right, images).proportion_ci(confidence, method="wilson")
    return 100 * found.low, 100 * found.high


def as_text(found: list[Measure], tables: list[Table], intervals: bool) -> str:
    """The table for a terminal; ``intervals`` for a first look on a part."""
    lines = [_line(measure, tables, intervals) for measure in found]
    header = [*HEADER, INTERVAL] if intervals else list(HEADER)
    return aligned([header, *lines], rule=True)


def _line(measure: Measure, tables: list[Table], intervals: bool) -> list[str]:
    release = measure.release
    paper = paper_prints(tables, release.config, release.task, measure.metric)
    readme = release.readme.get(measure.metric)
    cells = [Path(release.file).stem, measure.metric, f"{measure.images:,}", paper]
    cells += [NOT_PRINTED if readme is None else str(readme), f"{measure.value:.2f}"]
    cells += [_difference(measure.value, None if paper == NOT_PRINTED else float(paper))]
    cells += [_difference(measure.value, readme)]
    if intervals:
        low_high = wilson(*measure.counts) if measure.counts and measure.counts[1] else None
        cells.append("none for AP and mIoU" if low_high is None else f"{low_high[0]:.2f} to {low_high[1]:.2f}")
    return cells


def _difference(value: float, other: float | None) -> str:
    return NOT_PRINTED if other is None else f"{value - other:+.2f}"
