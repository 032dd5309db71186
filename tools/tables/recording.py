"""Records for rows, of runs, evaluations and benchmarks; what fits no row, or is not whole, is refused."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.config import to_dict
from engine.records import DenseEvaluation, DenseResult, EvalResult, RunResult, read_json, read_run
from engine.runfolder import FREE, completed, departures, git_commit
from engine.settings import evaluation_settings
from engine.weights import file_hash
from models.errors import UserError, hint
from tools.tables.costs import row_config
from tools.tables.loading import ROOT, TABLES, load_tables
from tools.tables.results import Kind, Record
from tools.tables.schema import Task

SECTIONS = ("model", "data", "train")
# Beside what may change within a run: where the images come from and how fast they are trained, not what is learned.
FREE_BETWEEN_RUNS = {
    "train": FREE["train"] | {"seed", "precision", "compile", "channels_last"},
    "data": FREE["data"] | {"format", "train", "val", "name"},
}
METRICS = {"original": {"top1": "top1", "top5": "top5"}, "real": {"top1": "real"}}
DENSE_METRICS: dict[str, dict[str, tuple[str, float]]] = {
    "detection": {
        "coco/bbox_mAP": ("box_ap", 100.0),
        "coco/bbox_mAP_50": ("box_ap50", 100.0),
        "coco/bbox_mAP_75": ("box_ap75", 100.0),
        "coco/segm_mAP": ("mask_ap", 100.0),
    },
    "segmentation": {"mIoU": ("miou", 1.0)},
}
"""The libraries' names of metrics, the quantities of columns, and the factor to percent."""


def row_configs(task: Task = "classification", folder: Path = TABLES) -> list[str]:
    """The configs of all rows for a task."""
    configs = (row.config_of(task) for table in load_tables(folder) for row in table.rows)
    return list(dict.fromkeys(config for config in configs if config))


@cache
def row_content(config: str, task: Task) -> dict[str, Any]:
    """A row's resolved config, as a run folder holds it.

    Raises:
        UserError: it cannot be read, or a dense one needs packages that are missing.
    """
    if task == "classification":
        return to_dict(row_config(config))
    try:
        from engine.dense.arguments import load_mm_config, set_neck_levels
        from engine.dense.recipe import row_recipe
    except ModuleNotFoundError as error:
        raise UserError(f"{config}: needs {error.name}, which `make setup-dense` installs") from error
    content = load_mm_config(str(ROOT / config), {})
    set_neck_levels(content)
    return row_recipe(content, task)


def config_of_run(run: Mapping[str, Any], task: Task, path: Path) -> str:
    """The row's config that a run trained.

    Raises:
        UserError: it trained none; names the nearest, which has the fewest other keys, and those.
    """
    differ = {}
    for config in row_configs(task):
        row = row_content(config, task)
        if task == "classification":
            differ[config] = departures(_with_start(run), _with_start(row), SECTIONS, FREE_BETWEEN_RUNS)
        else:
            differ[config] = departures(run, row, run.keys() | row.keys(), {"config": {""}, "precision": {""}})
    nearest = min(differ, key=lambda config: len(differ[config]))
    if not differ[nearest]:
        return nearest
    key, given, wanted = differ[nearest][0]
    more = ", ".join(key for key, _, _ in differ[nearest][1:4])
    text = f"{path}: no row has this config: {key} is {given!r} in the run and {wanted!r} in {nearest}, the nearest"
    raise UserError(text + (f" ({len(differ[nearest])} keys differ, next {more})" if more else ""))


def _with_start(config: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier's config with whether it starts from weights in place of the path of their file."""
    train = dict(config.get("train") or {})
    return {**config, "train": train | {"init_checkpoint": train.get("init_checkpoint") is not None}}


def of_run(folder: Path) -> Record:
    """The record of a finished training.

    Raises:
        UserError: it is not finished, trained no row's config, its data are not the row's, or its weights are not
            those of its record.
    """
    run = read_run(folder)
    source = folder / "config.yaml"
    if isinstance(run.result, DenseResult):
        if "task" not in run.config:
            raise UserError(f"{source}: not there, so nothing says what was trained")
        task, result, weights = run.config["task"], run.result, _last_checkpoint(folder)
        config = config_of_run(run.config, task, source)
        metrics = dense_metrics(task, result.metrics, str(folder / run.RESULT))
        record = _record("trained", config, task, metrics, result, result.eval_images)
    else:
        classifier, weights = run.finished(), run.weights
        config = config_of_run(completed(run.config), "classification", source)
        if classifier.eval_images is None:
            raise UserError(f"{folder / run.RESULT}: no evaluation is in it")
        metrics = metrics_of(classifier, classifier.labels)
        record = _record("trained", config, "classification", metrics, classifier, classifier.eval_images)
    if not weights.is_file() or file_hash(weights) != record.checkpoint_sha256:
        raise UserError(f"{weights}: not the weights whose hash {folder / run.RESULT} names")
    return record


def _last_checkpoint(folder: Path) -> Path:
    """The library's last checkpoint; the folder may have moved since its name was written down."""
    last = folder / "last_checkpoint"
    path = Path(last.read_text(encoding="utf-8")) if last.is_file() else last
    return path if path.is_file() else folder / path.name


def _record(
    kind: Kind,
    config: str,
    task: Task,
    metrics: dict[str, float],
    result: Any,
    images: int,
    release: str | None = None,
    folder: Path = TABLES,
) -> Record:
    """The record of a result or an evaluation; what it does not know is left out.

    Raises:
        UserError: it is not of the images that the rows are on.
    """
    check_images(config, task, images, getattr(result, "labels", "original"), result.dataset, folder)
    return Record(
        config=config,
        task=task,
        kind=kind,
        metrics=metrics,
        dataset=result.dataset,
        images=images,
        checkpoint_sha256=result.checkpoint_sha256,
        commit=getattr(result, "commit", None) or git_commit(),
        seed=getattr(result, "seed", None),
        epochs=getattr(result, "epochs", None),
        precision=result.precision,
        release=release,
    )


def of_evaluation(path: Path, config: str | None, *, release: str | None = None, folder: Path = TABLES) -> Record:
    """The record of an evaluation, of weights from elsewhere or with other labels.

    Args:
        release: the name of the file, where it is one that the authors or Swin have released.
        folder: of the tables whose rows it is for.

    Raises:
        UserError: no row has the config, the evaluation is of another model or other settings, or not of the row's
            images.
    """
    values = read_json(path)
    if "task" in values:
        return _of_dense_evaluation(path, values, config, release, folder)
    if config is None:
        raise UserError("--config: missing; --evaluation of a classifier needs the config of the row")
    result = EvalResult.from_json(values, str(path))
    _check_row(config, "classification", "--config", folder)
    model = row_config(config).model.name
    if result.model != model:
        raise UserError(f"{path}: model: {result.model!r}, but {config} is {model!r}")
    if result.resized:
        raise UserError(f"{path}: weights were resized for the evaluation, first {result.resized[0]}")
    _check_settings(path, result.settings, config)
    metrics = metrics_of(result, result.labels)
    return _record("evaluated", config, "classification", metrics, result, result.images, release, folder)


def _check_settings(path: Path, found: dict[str, Any] | None, config: str) -> None:
    if found is None:
        raise UserError(f"{path}: settings: missing, it is of before December 2026; evaluate the weights again")
    wanted = evaluation_settings(row_config(config))
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            have, want = (values.get(key, "its default") for values in (found, wanted))
            raise UserError(f"{path}: evaluated with {key}: {have}, and {config} has {want}")


def _of_dense_evaluation(
    path: Path, values: dict[str, Any], config: str | None, release: str | None, folder: Path
) -> Record:
    result = DenseEvaluation.from_json(values, str(path))
    if config not in (None, result.config):
        raise UserError(f"--config {config}: {path} is an evaluation of {result.config}")
    if result.task not in DENSE_METRICS:
        raise UserError(f"{path}: task: {result.task!r}; {hint(result.task, DENSE_METRICS)}")
    task: Task = result.task  # type: ignore[assignment]
    _check_row(result.config, task, f"{path}: config", folder)
    if result.options:
        raise UserError(f"{path}: evaluated with {result.options[0]}, and {result.config} has it otherwise")
    metrics = dense_metrics(task, values, str(path))
    return _record("evaluated", result.config, task, metrics, result, result.eval_images, release, folder)


def of_speed(path: Path) -> list[Record]:
    """The records of the inference speeds in a report of benchmarks/speed.py, of the models that are rows'.

    Raises:
        UserError: it is no such report, or no model of it is a row's.
    """
    report = read_json(path)
    try:
        machine = report["machine"]
        device = (
            machine["device"] if machine["device"] != "cpu" else f"{machine['processor']}, {machine['threads']} threads"
        )
        timed = [
            (group["work"], row)
            for group in report["groups"]
            if group["work"]["mode"] == "inference"
            for row in group["rows"]
            if "error" not in row
        ]
        found = [
            Record(
                config=config,
                task="classification",
                kind="timed",
                metrics={"throughput": row["images_per_second"]},
                device=f"{device}, {work['dtype']}, batch {work['batch']}, {row['model']}",
                commit=report.get("commit", "unknown"),
            )
            for work, row in timed
            for config in _rows_of_model(row["model"].split("+")[0], work["img_size"])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--speed {path}: no report of benchmarks/speed.py ({type(error).__name__}: {error})") from None
    if not found:
        names = ", ".join(dict.fromkeys(row["model"] for _, row in timed)) or "no model"
        raise UserError(f"--speed {path}: {names} in inference: no row has such a model at this size")
    return found


def _rows_of_model(name: str, size: int) -> list[str]:
    """The rows that are this model, named as benchmarks/speed.py names it, at this size."""
    known = ("configs/imagenet/", "configs/comparison.yaml")
    if name.endswith(".yaml"):
        return [config for config in row_configs() if config == name and row_config(config).model.img_size == size]
    models = {config: row_config(config).model for config in row_configs() if config.startswith(known)}
    return [config for config, model in models.items() if (model.name, model.img_size) == (name, size)]


def _check_row(config: str, task: Task, where: str, folder: Path) -> None:
    known = row_configs(task, folder)
    if config not in known:
        raise UserError(f"{where} {config}: no row has it; {hint(config, known)}")


def metrics_of(result: RunResult | EvalResult, labels: str) -> dict[str, float]:
    """The accuracies of a record under the names that the tables' columns have."""
    return {ours: float(getattr(result, theirs)) for theirs, ours in METRICS[labels].items()}


def dense_metrics(task: Task, values: Mapping[str, Any], source: str) -> dict[str, float]:
    """The library's metrics under the names that the tables' columns have, in percent.

    Raises:
        UserError: one is missing or has no number.
    """
    found = {}
    for theirs, (ours, factor) in DENSE_METRICS[task].items():
        if not isinstance(values.get(theirs), int | float):
            raise UserError(f"{source}: {theirs}: no number, so the model was not evaluated")
        found[ours] = round(float(values[theirs]) * factor, 4)
    return found


def check_images(config: str, task: Task, images: int, labels: str, dataset: str, folder: Path = TABLES) -> None:
    """Raises UserError for a measurement that is not of the whole validation set of the rows that have a config."""
    for table in load_tables(folder):
        wanted = table.real_images if labels == "real" else table.images.get(task)
        name = table.data[task]
        strange = images != wanted or (table.is_own and dataset != name)
        if strange and any(row.config_of(task) == config for row in table.rows):
            raise UserError(
                f"{dataset}: {images} images were evaluated; the rows of table {table.table} are on the {wanted} of "
                f"{name}"
            )
