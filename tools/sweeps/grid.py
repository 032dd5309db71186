"""What a sweep runs: a YAML file of runs, seeds and the groups in which the results are shown."""

import shlex
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from engine.config import load_config
from engine.errors import ConfigError, hint
from engine.schema import Config
from engine.yaml_values import read_mapping
from tools.strict import Strict


class RunSpec(Strict):
    """One variant: a config with overrides, trained once for each seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    label: str
    config: str = Field(description="path from the checkout's root, then overrides, as on the command line")
    start_from: str | None = Field(None, description="another run whose last weights this one starts from")
    seeds: list[int] | None = Field(None, description="in place of the sweep's seeds")


class Group(Strict):
    """Runs that are shown together; with `x` they are points of a curve."""

    title: str
    runs: list[str]
    x: list[float] | None = None
    xlabel: str = ""


class Grid(Strict):
    """A whole sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    title: str
    note: str = ""
    seeds: list[int] = Field(min_length=1)
    overrides: list[str] = Field(default_factory=list, description="of all runs, before each run's own")
    runs: list[RunSpec] = Field(min_length=1)
    groups: list[Group] = Field(default_factory=list)

    def run(self, name: str) -> RunSpec:
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)


class Job(Strict):
    """One training of a sweep."""

    run: RunSpec
    seed: int
    output: Path
    config: str
    overrides: list[str]

    def resolved(self) -> Config:
        """The config that this job trains.

        Raises:
            ConfigError: a path or an override of the grid is wrong.
        """
        return load_config(self.config, self.overrides, world_size=1)


def load_grid(path: Path) -> Grid:
    """Read a grid file.

    Raises:
        ConfigError: one line with the file and what is wrong in it.
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
        raise ConfigError(f"{path}: {where}: {extra if first['type'] == 'extra_forbidden' else first['msg']}") from None
    for problem in problems(grid):
        raise ConfigError(f"{path}: {problem}")
    return grid


def problems(grid: Grid) -> list[str]:
    """What is wrong with a grid beyond its types."""
    names = [run.name for run in grid.runs]
    found = [f"runs: {name!r} is given twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for number, run in enumerate(grid.runs):
        if run.start_from is not None and run.start_from not in names[:number]:
            found.append(f"runs: {run.name}: start_from: {run.start_from!r} is no run before it")
    for group in grid.groups:
        found += [
            f"groups: {group.title!r}: {name!r} is no run; {hint(name, names)}"
            for name in group.runs
            if name not in names
        ]
        if group.x is not None and len(group.x) != len(group.runs):
            found.append(f"groups: {group.title!r}: x: {len(group.x)} values for {len(group.runs)} runs")
    return found


def jobs(grid: Grid, output: Path, root: Path) -> list[Job]:
    """All trainings of a grid, seed by seed, so that an interrupted sweep has whole seeds."""
    seeds = list(dict.fromkeys([*grid.seeds, *(seed for run in grid.runs for seed in run.seeds or [])]))
    found = []
    for seed in seeds:
        for run in grid.runs:
            if seed not in (run.seeds or grid.seeds):
                continue
            path, *own = shlex.split(run.config)
            folder = output / run.name / f"seed{seed}"
            last = [f"train.seed={seed}", f"output={folder}"]
            if run.start_from is not None:
                last.append(f"train.init_checkpoint={output / run.start_from / f'seed{seed}' / 'last.safetensors'}")
            overrides = [*grid.overrides, *own, *last]
            found.append(Job(run=run, seed=seed, output=folder, config=str(root / path), overrides=overrides))
    return found
