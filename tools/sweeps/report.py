"""What a sweep ends with: mean and standard deviation of each run, as JSON, a table and a figure."""

import json
import os
import platform
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch

from engine.files import write_atomic
from models.errors import UserError
from tools.sweeps.grid import Grid, Group, RunSpec
from tools.sweeps.jobs import Job
from tools.sweeps.runner import USAGE


class Metric(NamedTuple):
    """What the runs of a task are compared by: its key in their records, its name, its factor to percent."""

    key: str
    name: str
    factor: float = 1.0


METRICS = {
    "classification": Metric("top1", "top-1 (%)"),
    "detection": Metric("coco/bbox_mAP", "box AP (%)", 100.0),
    "segmentation": Metric("mIoU", "mIoU (%)"),
}


def collect(grid: Grid, jobs: list[Job], command: str) -> dict[str, Any]:
    """The results of all finished jobs, from the records that they left.

    Args:
        command: how the sweep was called, to be repeated by a reader.
    """
    rows = []
    for run in grid.runs:
        own = [job for job in jobs if job.run.name == run.name]
        rows.append(row_of(run, own))
    cpu = {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    return {
        "name": grid.name,
        "title": grid.title,
        "note": grid.note,
        "command": command,
        **cpu,
        "rows": rows,
        "groups": [group.model_dump() for group in grid.groups],
    }


def row_of(run: RunSpec, jobs: list[Job]) -> dict[str, Any]:
    """One run: its cost, its seeds' results, and their mean and standard deviation (over seeds, n - 1)."""
    records = [(job, job.record()) for job in jobs]
    results = [{**found, "cpu_seconds": used(job)} for job, found in records if found]
    points = scores({"task": run.task, "runs": results})
    cost, size = jobs[0].cost()
    return {
        "name": run.name,
        "label": run.label,
        "task": run.task,
        "config": run.config,
        "start_from": run.start_from,
        "params": cost.params,
        "macs": cost.macs + cost.aggregation,
        "img_size": size,
        "mean": mean(points) if points else None,
        "std": stdev(points) if len(points) > 1 else None,
        "wanted": len(jobs),
        "runs": results,
    }


def scores(row: dict[str, Any]) -> list[float]:
    """What a row is compared by, in percent, for each seed."""
    metric = METRICS[row["task"]]
    return [float(run[metric.key] * metric.factor) for run in row["runs"]]


def used(job: Job) -> float | None:
    """Seconds of CPU time, over all starts of a run."""
    usage = job.output / USAGE
    return json.loads(usage.read_text(encoding="utf-8"))["cpu_seconds"] if usage.exists() else None


def save(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: the file is missing or no result of a sweep.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; tools/sweep.py writes it") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    lacking = [key for key in ("rows", "groups", "title", "command") if key not in results]
    lacking += [f"rows.{key}" for row in results.get("rows", []) for key in ("task", "mean", "std") if key not in row]
    if lacking:
        raise UserError(f"{path}: {lacking[0]}: missing; this is no result of tools/sweep.py")
    return results


def groups_of(results: dict[str, Any]) -> list[Group]:
    """The groups of the results; all rows in one where the grid has none."""
    names = [row["name"] for row in results["rows"]]
    found = [Group.model_validate(group) for group in results["groups"]]
    return found or [Group(title=results["title"], runs=names)]


def shown_score(row: dict[str, Any]) -> str:
    """Mean and standard deviation in percent, or how many runs are missing."""
    if row["mean"] is None:
        return "not run"
    spread = f" ± {row['std']:.2f}" if row["std"] is not None else ""
    missing = row["wanted"] - len(row["runs"])
    return f"{row['mean']:.2f}{spread}" + (f" ({missing} missing)" if missing else "")


def shown_row(row: dict[str, Any]) -> list[str]:
    """The cells of one row: name, size, cost, accuracy, seeds. Speed is left to benchmarks/speed.py."""
    size = row["img_size"]
    shape = str(size) if isinstance(size, int) else "x".join(map(str, size))
    cost = [f"{row['params']:,}", f"{row['macs'] / 1e6:.2f}"]
    return [row["label"], shape, *cost, shown_score(row), str(len(row["runs"]))]


def header(rows: list[dict[str, Any]]) -> list[str]:
    """The names of the columns of rows of one task."""
    return ["run", "input", "parameters", "MACs (M)", METRICS[rows[0]["task"]].name, "seeds"]


def as_text(results: dict[str, Any]) -> str:
    """For a terminal."""
    rows = {row["name"]: row for row in results["rows"]}
    blocks = [results["title"]]
    for group in groups_of(results):
        own = [rows[name] for name in group.runs]
        lines = [header(own), *map(shown_row, own)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
        blocks.append(f"{group.title}\n{text}")
    return "\n\n".join(blocks)


def as_markdown(path: Path) -> str:
    """For the docs: each group as a table, and where the numbers come from."""
    results = load(path)
    rows = {row["name"]: row for row in results["rows"]}
    blocks = []
    for group in groups_of(results):
        own = [rows[name] for name in group.runs]
        names = header(own)
        lines = [names, ["---"] * len(names), *map(shown_row, own)]
        blocks.append(f"**{group.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    runs = [run for row in results["rows"] for run in row["runs"]]
    datasets, devices, commits = (sorted({run[key] for run in runs}) for key in ("dataset", "device", "commit"))
    minutes = sum(run["cpu_seconds"] or 0 for run in runs) / 60
    blocks.append(
        f"{results['note']} Data: {', '.join(datasets)}. {len(runs)} runs on {', '.join(devices)} "
        f"({results['cpus']} cores), {minutes:.0f} minutes of CPU time in total, trained at commit "
        f"{', '.join(f'`{commit[:10]}`' for commit in commits)}. Command: `{results['command']}`."
    )
    return "\n\n".join(blocks)
