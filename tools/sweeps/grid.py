"""What a sweep runs: a YAML file of runs, seeds and the groups in which the results are shown."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from engine.config import read_mapping
from models.errors import UserError, hint
from tools.tables.schema import Strict

Task = Literal["classification", "detection", "segmentation"]


class RunSpec(Strict):
    """One variant: a config with overrides, trained once for each seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="folder of the run, and its name in groups")
    label: str = Field(description="the run in tables and figures")
    task: Task = Field(default="classification", description="which program trains the config")
    config: str = Field(description="path from the checkout's root, then overrides, as on the command line")
    start_from: str | None = Field(default=None, description="another run whose last weights this one starts from")
    seeds: list[int] | None = Field(default=None, description="in place of the sweep's seeds")


class Group(Strict):
    """Runs that are shown together; with `x` they are points of a curve."""

    title: str = Field(description="over the rows of the table and the panel of the figure")
    runs: list[str] = Field(description="names of runs, in order")
    x: list[float] | None = Field(default=None, description="where each run stands on the axis of a curve; null: bars")
    xlabel: str = Field(default="", description="name of that axis")


class Grid(Strict):
    """A whole sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="of the sweep; its runs lie in runs/NAME")
    title: str = Field(description="over the table and the figure")
    note: str = Field(default="", description="a sentence below the title")
    seeds: list[int] = Field(min_length=1, description="every run is trained once with each")
    overrides: list[str] = Field(default_factory=list, description="of all classifiers, before each run's own")
    runs: list[RunSpec] = Field(min_length=1, description="what is trained")
    groups: list[Group] = Field(default_factory=list, description="how the results are shown; empty: all together")

    def run(self, name: str) -> RunSpec:
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)

    def seeds_of(self, run: RunSpec) -> list[int]:
        """The seeds that a run is trained with."""
        return run.seeds or self.seeds

    def all_seeds(self) -> list[int]:
        """The seeds of the sweep, then those of single runs, each once."""
        return list(dict.fromkeys([*self.seeds, *(seed for run in self.runs for seed in run.seeds or [])]))


def load_grid(path: Path) -> Grid:
    """Read a grid file.

    Raises:
        UserError: one line with the file and what is wrong in it.
    """
    data = read_mapping(path)
    try:
        grid = Grid.model_validate(data)
    except ValidationError as error:
        faults = error.errors()
        first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
        where = ".".join(map(str, first["loc"]))
        inner: dict[str, type[BaseModel]] = {"runs": RunSpec, "groups": Group}
        known = inner.get(str(first["loc"][0]), Grid) if len(first["loc"]) > 1 else Grid
        extra = f"unknown key; {hint(str(first['loc'][-1]), known.model_fields)}"
        raise UserError(f"{path}: {where}: {extra if first['type'] == 'extra_forbidden' else first['msg']}") from None
    for problem in problems(grid):
        raise UserError(f"{path}: {problem}")
    return grid


def problems(grid: Grid) -> list[str]:
    """What is wrong with a grid beyond its types."""
    names = [run.name for run in grid.runs]
    found = [f"runs: {name!r} is given twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for number, run in enumerate(grid.runs):
        if run.start_from is not None:
            found += [f"runs: {run.name}: start_from: {fault}" for fault in start_problems(grid, number)]
    if not grid.groups and len({run.task for run in grid.runs}) > 1:
        found.append("groups: runs of several tasks are shown in groups, each of one task")
    for group in grid.groups:
        found += [
            f"groups: {group.title!r}: {name!r} is no run; {hint(name, names)}"
            for name in group.runs
            if name not in names
        ]
        tasks = sorted({run.task for run in grid.runs if run.name in group.runs})
        if len(tasks) > 1:
            found.append(f"groups: {group.title!r}: shows {' and '.join(tasks)}, whose figures cannot be compared")
        if group.x is not None and len(group.x) != len(group.runs):
            found.append(f"groups: {group.title!r}: x: {len(group.x)} values for {len(group.runs)} runs")
    return found


def start_problems(grid: Grid, number: int) -> list[str]:
    """What is wrong with the run that another one starts from."""
    run = grid.runs[number]
    start = next((other for other in grid.runs[:number] if other.name == run.start_from), None)
    if start is None:
        return [f"{run.start_from!r} is no run before it"]
    if start.task != "classification":
        return [f"{start.name!r} is a run of {start.task}; only classifiers are started from"]
    lacking = sorted(set(grid.seeds_of(run)) - set(grid.seeds_of(start)))
    return [f"{start.name!r} is not trained with seed {lacking[0]}"] if lacking else []
