"""What a sweep ends with: mean and standard deviation of each run, as JSON, a table and a figure."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch

from engine.files import write_atomic
from engine.records import Record
from engine.runfolder import processor_name
from models.errors import UserError
from tools.sweeps.grid import Grid, Group, RunSpec
from tools.sweeps.jobs import Job
from tools.sweeps.runner import USAGE
from tools.text import aligned, markdown_table


class Metric(NamedTuple):
    """What the runs of a task are compared by: its key in their records, its name, its factor to percent."""

    key: str
    name: str
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SweepRow(Record):
    """One run of a sweep: its cost, its seeds' results, their mean and standard deviation (over seeds, n - 1)."""

    name: str
    label: str
    task: str
    config: str
    start_from: str | None
    params: int
    macs: int
    img_size: int | list[int]
    mean: float | None
    std: float | None
    wanted: int
    """How many seeds the grid asks for."""
    runs: list[dict[str, Any]]
    """What was kept of each seed's result.json."""

    @property
    def level(self) -> float:
        """The mean of a row of which something has run."""
        if self.mean is None:
            raise ValueError(f"{self.name}: nothing has run")
        return self.mean

    @property
    def scores(self) -> list[float]:
        """What a row is compared by, in percent, for each seed."""
        return list(self.by_seed.values())

    @property
    def by_seed(self) -> dict[int, float]:
        """The same, by seed."""
        metric = METRICS[self.task]
        return {run["seed"]: float(run[metric.key] * metric.factor) for run in self.runs}


@dataclass(frozen=True, kw_only=True)
class SweepResult(Record):
    """The results of all finished runs of a sweep."""

    name: str
    title: str
    note: str
    command: str
    cpus: int
    machine: str
    torch: str
    rows: list[SweepRow]
    groups: list[Group]
    """Empty where the grid has none."""

    def to_json(self) -> dict[str, object]:
        """As it lies in benchmarks/."""
        groups = [group.model_dump() for group in self.groups]
        return {**super().to_json(), "rows": [row.to_json() for row in self.rows], "groups": groups}

    @property
    def by_name(self) -> dict[str, SweepRow]:
        """The rows by their names."""
        return {row.name: row for row in self.rows}

    @property
    def panels(self) -> list[Group]:
        """The groups; all rows in one where the grid has none."""
        return self.groups or [Group(title=self.title, runs=[row.name for row in self.rows])]


METRICS = {
    "classification": Metric("top1", "top-1 (%)"),
    "detection": Metric("coco/bbox_mAP", "box AP (%)", 100.0),
    "segmentation": Metric("mIoU", "mIoU (%)"),
}


def collect(
    grid: Grid, jobs: list[Job], command: str, kept: Mapping[Path, dict[str, Any]] | None = None
) -> SweepResult:
    """The results of all finished jobs, from the records that they left.

    Args:
        command: how the sweep was called, to be repeated by a reader.
        kept: what an earlier result holds of these jobs, by output folder; it stays as it is.

    Raises:
        UserError: the folder of another job holds a run with another config.
    """
    records = {job.output: (kept or {}).get(job.output) or record_of(job) for job in jobs}
    return SweepResult(
        name=grid.name,
        title=grid.title,
        note=grid.note,
        command=command,
        cpus=os.cpu_count() or 1,
        machine=platform.machine(),
        torch=torch.__version__,
        rows=[row_of(run, [job for job in jobs if job.run.name == run.name], records) for run in grid.runs],
        groups=list(grid.groups),
    )


def record_of(job: Job) -> dict[str, Any] | None:
    """What a finished job left: its result, the seconds of CPU time over all its starts, and on which processor."""
    found = job.record()
    if found is None:
        return None
    usage = job.output / USAGE
    seconds = json.loads(usage.read_text(encoding="utf-8"))["cpu_seconds"] if usage.exists() else None
    return {**found, "cpu_seconds": seconds, "processor": processor_name()}


def row_of(run: RunSpec, jobs: list[Job], records: Mapping[Path, dict[str, Any] | None]) -> SweepRow:
    """The row of one run from what its seeds left."""
    cost, size = jobs[0].cost()
    row = SweepRow(
        name=run.name,
        label=run.label,
        task=run.task,
        config=run.config,
        start_from=run.start_from,
        params=cost.params,
        macs=cost.macs + cost.aggregation,
        img_size=size,
        mean=None,
        std=None,
        wanted=len(jobs),
        runs=[found for job in jobs if (found := records[job.output])],
    )
    points = row.scores
    return replace(row, mean=mean(points) if points else None, std=stdev(points) if len(points) > 1 else None)


def save(results: SweepResult, path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(results.to_json(), indent=1) + "\n").encode())


def load(path: Path) -> SweepResult:
    """Read what :func:`save` wrote.

    Raises:
        UserError: the file is missing or no result of a sweep.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = [SweepRow.from_json(row, f"{path}: rows") for row in values["rows"]]
        groups = [Group.model_validate(group) for group in values["groups"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; tools/sweep.py writes it") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}: missing; this is no result of tools/sweep.py") from None
    return SweepResult.from_json({**values, "rows": rows, "groups": groups}, str(path))


def shown_score(row: SweepRow) -> str:
    """Mean and standard deviation in percent, or how many runs are missing."""
    if row.mean is None:
        return "not run"
    spread = f" ± {row.std:.2f}" if row.std is not None else ""
    missing = row.wanted - len(row.runs)
    return f"{row.mean:.2f}{spread}" + (f" ({missing} missing)" if missing else "")


def shown_row(row: SweepRow) -> list[str]:
    """The cells of one row: name, size, cost, accuracy, seeds. Speed is left to benchmarks/speed.py."""
    size = row.img_size
    shape = str(size) if isinstance(size, int) else "x".join(map(str, size))
    cost = [f"{row.params:,}", f"{row.macs / 1e6:.2f}"]
    return [row.label, shape, *cost, shown_score(row), str(len(row.runs))]


def header(rows: list[SweepRow]) -> list[str]:
    """The names of the columns of rows of one task."""
    return ["run", "input", "parameters", "MACs (M)", METRICS[rows[0].task].name, "seeds"]


def as_text(results: SweepResult) -> str:
    """For a terminal."""
    rows = results.by_name
    blocks = [results.title]
    for group in results.panels:
        own = [rows[name] for name in group.runs]
        text = aligned([header(own), *map(shown_row, own)])
        blocks.append(f"{group.title}\n{text}")
    return "\n\n".join(blocks)


def as_markdown(path: Path) -> str:
    """For the docs: each group as a table, and where the numbers come from."""
    results = load(path)
    rows = results.by_name
    blocks = []
    for group in results.panels:
        own = [rows[name] for name in group.runs]
        blocks.append(f"**{group.title}**\n\n{markdown_table([header(own), *map(shown_row, own)])}")
    runs = [run for row in results.rows for run in row.runs]
    datasets, commits = (sorted({run[key] for run in runs}) for key in ("dataset", "commit"))
    processors = sorted({run.get("processor", run["device"]) for run in runs})
    minutes = sum(run["cpu_seconds"] or 0 for run in runs) / 60
    blocks.append(
        f"{results.note} Data: {', '.join(datasets)}. {len(runs)} run{'s' if len(runs) > 1 else ''} on "
        f"{', '.join(processors)} ({results.cpus} cores), {minutes:.0f} minutes of CPU time in total, trained at "
        f"commit {', '.join(f'`{commit[:10]}`' for commit in commits)}. Command: `{results.command}`."
    )
    return "\n\n".join(blocks)
