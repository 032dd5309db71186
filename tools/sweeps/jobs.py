"""One training of a sweep, of a classifier, detector or segmentor: its command, its config, its record."""

import hashlib
import json
import shlex
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import load_config
from engine.files import write_atomic
from engine.records import DenseResult, RunResult, read_result
from engine.runfolder import FREE, check_same_run, departures
from engine.schema import Config
from models.cost import Cost, config_cost
from models.errors import UserError
from tools.sweeps.grid import Grid, RunSpec

SHARED = ("eval_images", "seed", "dataset", "commit", "device", "checkpoint_sha256")
SPEED = ("images_per_second", "train_seconds", "epochs")


@dataclass(frozen=True)
class Job(ABC):
    """One training of a sweep.

    Args:
        entry: the script that trains.
        config: path of the config.
        options: changes of the config, as the script takes them.
        start: weights that it starts from, the last ones of another run.
        output: run folder; `result.json` in it says that the run has ended.
    """

    run: RunSpec
    seed: int
    entry: Path
    config: str
    options: list[str]
    start: Path | None
    output: Path

    @abstractmethod
    def check(self) -> None:
        """Resolve the config.

        Raises:
            UserError: a path or an option of the grid is wrong.
        """

    @abstractmethod
    def recipe(self) -> str:
        """A hash of what is trained and how, whatever the seed, the places of files and the defaults of keys."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that trains, or goes on training."""

    @abstractmethod
    def check_folder(self) -> None:
        """Look at what lies in the run folder.

        Raises:
            UserError: it is a run with another config.
        """

    def is_finished(self) -> bool:
        """Whether this training has ended before.

        Raises:
            UserError: as :meth:`check_folder`.
        """
        self.check_folder()
        return (self.output / "result.json").exists()

    @abstractmethod
    def cost(self) -> tuple[Cost, int | list[int]]:
        """Cost of the model, and the side, or height and width, of the image that it is counted for."""

    def prepare(self) -> None:
        """Make the run folder."""
        self.output.mkdir(parents=True, exist_ok=True)

    def record(self) -> dict[str, Any] | None:
        """What is kept of `result.json`; None before the end.

        Raises:
            UserError: as :meth:`check_folder`; the figure would be of another recipe.
        """
        path = self.output / "result.json"
        if not path.exists():
            return None
        self.check_folder()
        return {**self._kept(read_result(path)), "recipe": self.recipe()}

    def is_of(self, cell: dict[str, Any]) -> bool:
        """Whether a record of another day is of what this job trains."""
        return cell.get("recipe") == self.recipe()

    @abstractmethod
    def _kept(self, result: Any) -> dict[str, Any]: ...


class ClassifierJob(Job):
    """A training by train_cls.py."""

    def resolved(self) -> Config:
        """The config that this job trains."""
        return load_config(self.config, self._overrides(), world_size=1)

    def _overrides(self) -> list[str]:
        last = [f"train.seed={self.seed}", f"output={self.output}"]
        start = [f"train.init_checkpoint={self.start}"] if self.start else []
        return [*self.options, *last, *start]

    def check(self) -> None:
        self.resolved()

    def recipe(self) -> str:
        config = self.resolved().model_dump(mode="json", exclude_defaults=True)
        # A run may go on with another accumulation or precision; one that begins so, or from other weights, is another.
        train = {*FREE["train"], "seed"} - {"accumulation"}
        free = {
            "data": FREE["data"],
            "train": train | ({"init_checkpoint"} if self.start else set()),
            "eval": {"batch_size"},
        }
        learned = departures(config, {}, ("model", "data", "train", "eval"), free)
        return digest([[(key, value) for key, value, _ in learned], self.run.start_from])

    def is_of(self, cell: dict[str, Any]) -> bool:
        """The recipe leaves out where the images lie; what they are has a name."""
        return super().is_of(cell) and cell.get("dataset") == self.resolved().data.dataset_name

    def command(self) -> list[str]:
        return [sys.executable, str(self.entry), "--config", self.config, *self._overrides()]

    def check_folder(self) -> None:
        check_same_run(self.output, self.resolved())

    def is_finished(self) -> bool:
        return super().is_finished() and (self.output / "last.safetensors").exists()

    def cost(self) -> tuple[Cost, int | list[int]]:
        config = self.resolved().model
        return config_cost(config), config.img_size

    def _kept(self, result: RunResult) -> dict[str, Any]:
        return {key: getattr(result, key) for key in ("top1", "top5", "best_top1", *SPEED, *SHARED)}


class DenseJob(Job):
    """A training by detection/train.py or segmentation/train.py; without `start_from` its backbone starts at random."""

    def recipe(self) -> str:
        from engine.dense.recipe import recipe

        return digest([recipe(self.resolved(), self.run.task, "none"), self.run.start_from])

    def command(self) -> list[str]:
        start = str(self.start) if self.start else "none"
        options = ["--work-dir", str(self.output), "--seed", str(self.seed), "--pretrained", start, "--resume"]
        return [sys.executable, str(self.entry), self.config, *options, *self._changes()]

    def _changes(self) -> list[str]:
        return ["--cfg-options", *self.options] if self.options else []

    def resolved(self) -> Any:
        """The library's config; what this class needs of the dense packages is imported here alone."""
        try:
            from engine.dense.arguments import common_parser, load_mm_config
            from engine.dense.checks import check_config
        except ModuleNotFoundError as error:
            raise UserError(f"{self.config}: needs {error.name}, which `make setup-dense` installs") from error
        changes = common_parser("").parse_args([self.config, *self._changes()])
        config = load_mm_config(self.config, changes.cfg_options)
        check_config(config, self.run.task)
        return config

    def check(self) -> None:
        self.resolved()

    def prepare(self) -> None:
        """Make the run folder; its config lies there, so that another one is noticed."""
        super().prepare()
        write_atomic(self._config_file, json.dumps(self._content(), indent=1).encode())

    def check_folder(self) -> None:
        if not self._config_file.exists():
            return
        before, now = json.loads(self._config_file.read_text(encoding="utf-8")), self._content()
        differ = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        if differ:
            raise UserError(
                f"output: {self.output} holds a run with another {differ[0]!r} in its config; choose another "
                f"output folder"
            )

    @property
    def _config_file(self) -> Path:
        return self.output / "sweep_config.json"

    def _content(self) -> dict[str, object]:
        content = {**self.resolved().to_dict(), "start_from": self.run.start_from}
        plain: dict[str, object] = json.loads(json.dumps(content, default=str))
        return plain

    def cost(self) -> tuple[Cost, int | list[int]]:
        """Counted for the size of the training crops; where the config has none, for the paper's size."""
        from engine.dense.cost import DETECTION_SIZE, SEGMENTATION_SIZE, dense_cost

        config = self.resolved()
        usual = DETECTION_SIZE if self.run.task == "detection" else SEGMENTATION_SIZE
        height, width = config.model.data_preprocessor.get("size") or usual
        return dense_cost(config, counter="torch", size=(height, width)), [height, width]

    def _kept(self, result: DenseResult) -> dict[str, Any]:
        return {key: getattr(result, key) for key in ("iterations", *SHARED)} | result.metrics


def digest(content: object) -> str:
    """Of plain values, short enough for a record."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def jobs(grid: Grid, output: Path, root: Path) -> list[Job]:
    """All trainings of a grid, seed by seed, so that an interrupted sweep has whole seeds."""
    found = []
    for seed in grid.all_seeds():
        for run in grid.runs:
            if seed in grid.seeds_of(run):
                found.append(job(grid, run, seed, output, root))
    return found


def job(grid: Grid, run: RunSpec, seed: int, output: Path, root: Path) -> Job:
    """The training of one run with one seed."""
    path, *own = shlex.split(run.config)
    classifier = run.task == "classification"
    kind = ClassifierJob if classifier else DenseJob
    return kind(
        run=run,
        seed=seed,
        entry=root / ("train_cls.py" if classifier else f"{run.task}/train.py"),
        config=str(root / path),
        options=[*(grid.overrides if classifier else []), *own],
        start=output / run.start_from / f"seed{seed}" / "last.safetensors" if run.start_from else None,
        output=output / run.name / f"seed{seed}",
    )
