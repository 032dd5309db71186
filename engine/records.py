"""What runs leave in their folders, typed, and the one reader of a run folder.

The JSON keys of a record are the names of its fields. Fields that are None by default are left out of the JSON where
they are None.
"""

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from models.errors import UserError, hint


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON mapping with known keys."""

    def to_json(self) -> dict[str, object]:
        """The mapping, in the order of the fields."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            item.name: values[item.name]
            for item in fields(self)
            if item.default is MISSING or values[item.name] is not None
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> Self:
        """The record in a mapping; keys that are no fields are left alone.

        Raises:
            UserError: a key is missing; ``source`` says where.
        """
        for item in fields(cls):
            if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
                raise UserError(f"{source}: {item.name}: missing")
        return cls(**{item.name: values[item.name] for item in fields(cls) if item.name in values})


@dataclass(frozen=True, kw_only=True)
class StepRecord(Record):
    """A line of ``log.jsonl``: means over the steps since the last one."""

    kind: str = "step"
    step: int
    epoch: int
    loss: float | None
    lr: float
    grad_norm: float | None
    images_per_second: float
    step_seconds: float
    data_seconds: float
    memory_gib: float
    eta_seconds: float


@dataclass(frozen=True, kw_only=True)
class EpochRecord(Record):
    """A line of ``log.jsonl`` at the end of an epoch; accuracies in percent where it was evaluated."""

    kind: str = "epoch"
    epoch: int
    step: int
    skipped: int
    train_loss: float | None
    replaced_images: int
    top1: float | None = None
    top5: float | None = None
    images: int | None = None
    eval_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult(Record):
    """``result.json`` of a classifier; accuracies in percent, hashes are SHA-256."""

    model: str
    dataset: str
    top1: float | None
    top5: float | None
    eval_images: int | None
    labels: str
    best_top1: float
    best_epoch: int
    params: int
    images_per_second: float | None
    train_seconds: float
    epochs: int
    steps: int
    skipped_steps: int
    seed: int
    ranks: int
    commit: str
    device: str
    checkpoint_sha256: str | None
    best_sha256: str | None
    precision: str | None = None
    """Of training; not in records of before November 2026."""
    classes: list[str] | None = None
    """In the order of the outputs; not in records of before December 2026."""
    ended_early: str | None = None
    """Why the run ended before its last epoch, where it did."""


@dataclass(frozen=True, kw_only=True)
class DenseResult(Record):
    """``result.json`` of a detector or segmentor: the library's metrics of the last weights."""

    metrics: dict[str, float | None]
    """By the library's names; None where it has no number, as for a class that does not occur."""
    iterations: int
    eval_images: int
    dataset: str
    seed: int
    commit: str
    device: str
    checkpoint_sha256: str | None
    precision: str | None = None
    """Of training; not in records of before December 2026."""


@dataclass(frozen=True, kw_only=True)
class ValidationRecord(Record):
    """A line of a dense run's ``log.jsonl``: the mean loss of the steps since the last validation, and its metrics."""

    kind: str = "validation"
    epoch: int | None
    """None where the loop counts iterations."""
    iteration: int
    train_loss: float | None
    """Of rank 0, as in the library's own log."""
    metrics: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class DenseEvaluation(Record):
    """What detection/test.py and segmentation/test.py print beside the metrics, in the same JSON line."""

    task: str
    config: str
    options: list[str]
    """Changes of the config that the figures depend on."""
    eval_images: int
    dataset: str
    checkpoint: str
    checkpoint_sha256: str
    commit: str
    device: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class EvalResult(Record):
    """The JSON line of eval_cls.py; accuracies in percent."""

    top1: float
    top5: float
    correct1: int
    correct5: int
    images: int
    labels: str
    model: str
    dataset: str
    checkpoint: str
    checkpoint_sha256: str
    seconds: float
    ranks: int
    precision: str | None = None
    device: str | None = None
    batch_size: int | None = None
    """Images per rank; these three are not in records of before November 2026."""
    commit: str | None = None
    """Of the code; not in records of before December 2026."""
    empty_classes: list[str] | None = None
    """Classes of the model without images, where there are any."""
    settings: dict[str, Any] | None = None
    """Of model and input, by dotted key, without defaults (:mod:`engine.settings`); not in records of before December
    2026."""
    resized: list[str] | None = None
    """Weights that were resized for the model of the config, where there are any."""
    per_class: dict[str, dict[str, float]] | None = None
    """``top1`` and ``images`` of each class with images; none under ReaL labels, where an image may have several."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that train_cls.py, detection/train.py or segmentation/train.py filled."""

    folder: Path
    config: dict[str, Any]
    """``config.yaml``: of a classifier as it was resolved, of a dense run its recipe."""
    epochs: list[EpochRecord]
    validations: list[ValidationRecord]
    """Of dense runs."""
    result: RunResult | DenseResult | None
    """None before the end."""

    RESULT: ClassVar[str] = "result.json"

    @property
    def weights(self) -> Path:
        """The last weights of a classifier."""
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights of the epoch with the highest top-1."""
        return self.folder / "best.safetensors"

    def finished(self) -> RunResult:
        """The result of a classifier's run.

        Raises:
            UserError: it has not ended, or it is no classifier's.
        """
        if not isinstance(self.result, RunResult):
            what = "no such file" if self.result is None else "a detector's or segmentor's, not a classifier's"
            raise UserError(f"{self.folder / self.RESULT}: {what}")
        return self.result


def read_run(folder: Path) -> RunFolder:
    """Read what a run has left so far.

    Raises:
        UserError: this is no run folder, or a file of it is damaged; names the file, line or key.
    """
    config = folder / "config.yaml"
    log, result = folder / "log.jsonl", folder / RunFolder.RESULT
    if not any(path.is_file() for path in (config, log, result)):
        beside = sorted({str(path.parent) for path in folder.parent.glob("*/log.jsonl")})
        near = f"; {hint(str(folder), beside)}" if beside else ""
        raise UserError(f"{folder}: no config.yaml, log.jsonl or result.json, so this is no run folder{near}")
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    epochs, validations = _read_log(log)
    return RunFolder(folder, settings, epochs, validations, read_result(result) if result.is_file() else None)


def read_result(path: Path) -> RunResult | DenseResult:
    """A result.json; a dense one is known by its ``metrics``.

    Raises:
        UserError: it is damaged; names the file and the key.
    """
    values = read_json(path)
    return (DenseResult if "metrics" in values else RunResult).from_json(values, str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping: a whole file of one, or the last line of a command's output.

    Raises:
        UserError: the file is missing or holds no JSON mapping.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        value = json.loads(text if text.startswith("{\n") else text.splitlines()[-1])
    except (OSError, IndexError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON mapping is wanted")
    return value


def _read_log(path: Path) -> tuple[list[EpochRecord], list[ValidationRecord]]:
    """The epochs and validations of a log."""
    epochs, validations = [], []
    for number, values in log_lines(path):
        if values.get("kind") == "epoch":
            epochs.append(EpochRecord.from_json(values, f"{path}: line {number}"))
        elif values.get("kind") == "validation":
            validations.append(ValidationRecord.from_json(values, f"{path}: line {number}"))
    return epochs, validations


def log_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a log with their numbers; a last line that a kill has cut is left out.

    Raises:
        UserError: another line is no JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append((number, json.loads(line)))
        except json.JSONDecodeError:
            if number != len(lines):
                raise UserError(f"{path}: line {number} is no JSON record") from None
    return found
