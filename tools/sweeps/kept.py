"""Cells of a sweep that an earlier record holds, so that a grid can grow over many sessions and machines."""

from pathlib import Path
from typing import Any

from tools.sweeps import report
from tools.sweeps.jobs import Job
from tools.sweeps.runner import start_of

Kept = dict[Path, dict[str, Any]]
"""What a record holds of each job, by the job's output folder."""


def kept_cells(path: Path | None, work: list[Job]) -> Kept:
    """The jobs that a saved result holds with the recipe of today, and so with what they start from.

    Raises:
        UserError: the file is no result of a sweep.
    """
    if path is None or not path.exists():
        return {}
    rows = report.load(path).rows
    cells = {(row.name, run["seed"]): run for row in rows for run in row.runs}
    kept: Kept = {}
    for job in work:
        cell = cells.get((job.run.name, job.seed))
        if cell is None or not job.is_of(cell):
            continue
        if job.start is None or start_of(job) in kept:
            kept[job.output] = cell
    return kept


def still_to_train(work: list[Job], kept: Kept) -> list[Job]:
    """The jobs that no record holds, and those whose weights these start from."""
    wanted: set[Path | None] = set()
    for job in reversed(work):  # a start comes before what starts from it
        if job.output not in kept or job.output in wanted:
            wanted |= {job.output, start_of(job)}
    return [job for job in work if job.output in wanted]
