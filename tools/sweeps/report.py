"""What a sweep ends with: mean and standard deviation of each run, as JSON, a table and a figure."""

import json
import os
import platform
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from engine.errors import ConfigError
from engine.files import write_atomic
from engine.runfolder import git_commit
from models import build_model
from models.cost import model_cost
from tools.sweeps.grid import Grid, Group, Job, RunSpec
from tools.sweeps.runner import USAGE

KEPT = (
    "top1",
    "top5",
    "best_top1",
    "eval_images",
    "images_per_second",
    "train_seconds",
    "epochs",
    "seed",
    "dataset",
    "commit",
    "device",
)


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
        "commit": git_commit(),
        **cpu,
        "rows": rows,
        "groups": [group.model_dump() for group in grid.groups],
    }


def row_of(run: RunSpec, jobs: list[Job]) -> dict[str, Any]:
    """One run: its cost, its seeds' results, and their mean and standard deviation (over seeds, n - 1)."""
    results = [record(job) for job in jobs if (job.output / "result.json").exists()]
    accuracies = [result["top1"] for result in results]
    model_config = jobs[0].resolved().model
    size = model_config.img_size
    with torch.device("meta"):
        model = build_model(model_config)
    image = (size, size) if isinstance(size, int) else size
    cost = model_cost(model, image)
    return {
        "name": run.name,
        "label": run.label,
        "config": run.config,
        "start_from": run.start_from,
        "params": cost.params,
        "macs": cost.macs + cost.aggregation,
        "img_size": size,
        "top1_mean": mean(accuracies) if accuracies else None,
        "top1_std": stdev(accuracies) if len(accuracies) > 1 else None,
        "wanted": len(jobs),
        "runs": results,
    }


def record(job: Job) -> dict[str, Any]:
    """What is kept of a run's `result.json`."""
    result = json.loads((job.output / "result.json").read_text(encoding="utf-8"))
    usage = job.output / USAGE
    used = json.loads(usage.read_text(encoding="utf-8")) if usage.exists() else {"cpu_seconds": None}
    return {key: result[key] for key in (*KEPT, "checkpoint_sha256")} | {"cpu_seconds": used["cpu_seconds"]}


def save(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        ConfigError: the file is missing or no result of a sweep.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; tools/sweep.py writes it") from None
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    for key in ("rows", "groups", "title", "command"):
        if key not in results:
            raise ConfigError(f"{path}: {key}: missing; this is no result of tools/sweep.py")
    return results


def groups_of(results: dict[str, Any]) -> list[Group]:
    """The groups of the results; all rows in one where the grid has none."""
    names = [row["name"] for row in results["rows"]]
    found = [Group.model_validate(group) for group in results["groups"]]
    return found or [Group(title=results["title"], runs=names)]


def shown_accuracy(row: dict[str, Any]) -> str:
    """Mean and standard deviation in percent, or how many runs are missing."""
    if row["top1_mean"] is None:
        return "not run"
    spread = f" ± {row['top1_std']:.2f}" if row["top1_std"] is not None else ""
    missing = row["wanted"] - len(row["runs"])
    return f"{row['top1_mean']:.2f}{spread}" + (f" ({missing} missing)" if missing else "")


def shown_row(row: dict[str, Any]) -> list[str]:
    """The cells of one row: name, size, cost, accuracy, seeds. Speed is left to tools/benchmark.py."""
    cost = [f"{row['params']:,}", f"{row['macs'] / 1e6:.2f}"]
    return [row["label"], str(row["img_size"]), *cost, shown_accuracy(row), str(len(row["runs"]))]


HEADER = ["run", "input", "parameters", "MACs (M)", "top-1 (%)", "seeds"]


def as_text(results: dict[str, Any]) -> str:
    """For a terminal."""
    rows = {row["name"]: row for row in results["rows"]}
    blocks = [results["title"]]
    for group in groups_of(results):
        lines = [HEADER, *(shown_row(rows[name]) for name in group.runs)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(HEADER))]
        text = "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
        blocks.append(f"{group.title}\n{text}")
    return "\n\n".join(blocks)


def as_markdown(path: Path) -> str:
    """For the docs: each group as a table, and where the numbers come from."""
    results = load(path)
    rows = {row["name"]: row for row in results["rows"]}
    blocks = []
    for group in groups_of(results):
        lines = [HEADER, ["---"] * len(HEADER), *(shown_row(rows[name]) for name in group.runs)]
        blocks.append(f"**{group.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    runs = [run for row in results["rows"] for run in row["runs"]]
    datasets, devices = ({run[key] for run in runs} for key in ("dataset", "device"))
    minutes = sum(run["cpu_seconds"] or 0 for run in runs) / 60
    blocks.append(
        f"{results['note']} Data: {', '.join(sorted(datasets))}. {len(runs)} runs on {', '.join(sorted(devices))} "
        f"({results['cpus']} cores), {minutes:.0f} minutes of CPU time in total, commit `{results['commit']}`. "
        f"Command: `{results['command']}`."
    )
    return "\n\n".join(blocks)
