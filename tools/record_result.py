"""Copy a run's own record into the table data: ``python tools/record_result.py RUN`` or ``--evaluation FILE``.

RUN is the folder of a finished training whose config is that of a row; its weights must be the ones that its record
names. With `--evaluation FILE --config CONFIG`, FILE holds the JSON line that `eval_cls.py` printed for weights from
elsewhere, such as converted ones of the authors. Nothing else writes configs/tables/results.yaml.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished training")
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="the JSON line of eval_cls.py")
    parser.add_argument("--config", help="the row's config, with --evaluation")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once


from engine.config import to_dict
from engine.records import EvalResult, RunResult, read_json, read_run
from engine.runfolder import FREE, git_commit
from engine.weights import file_hash
from models.errors import UserError, hint
from tools.tables.costs import row_config
from tools.tables.results import Record, add_record
from tools.tables.schema import RESULTS, TABLES, load_tables, shown

IMAGES = 50_000  # of ImageNet-1K's validation set; with ReaL labels, those that have one
# Beside what may change within a run: where the images come from and how fast they are trained, not what is learned.
FREE_BETWEEN_RUNS = {
    "train": FREE["train"] | {"seed", "init_checkpoint", "precision", "compile", "channels_last"},
    "data": FREE["data"] | {"format", "train", "val", "name"},
}
METRICS = {"original": {"top1": "top1", "top5": "top5"}, "real": {"top1": "real"}}


def row_configs() -> list[str]:
    """The classification configs of all rows."""
    configs = (row.config_of("classification") for table in load_tables() for row in table.rows)
    return list(dict.fromkeys(config for config in configs if config))


def difference(run: dict[str, Any], config: str) -> str | None:
    """The first key in which a run's resolved config departs from a row's, None where the run is that row's."""
    row = to_dict(row_config(config))
    for section in ("model", "data", "train"):
        for key, wanted in row[section].items():
            given = run.get(section, {}).get(key)
            if key not in FREE_BETWEEN_RUNS.get(section, ()) and given != wanted:
                return f"{section}.{key} is {given!r} in the run and {wanted!r} in {config}"
    return None


def config_of_run(run: dict[str, Any], path: Path) -> str:
    """The row's config that a run trained.

    Raises:
        UserError: it trained none; names the key in which it departs from the nearest.
    """
    departures = {config: difference(run, config) for config in row_configs()}
    for config, departure in departures.items():
        if departure is None:
            return config
    texts = [text for text in departures.values() if text is not None]
    nearest = next((text for text in texts if not text.startswith("model.")), texts[0])
    raise UserError(f"{path}: no row has this config: {nearest}")


def of_run(folder: Path) -> Record:
    """The record of a finished training.

    Raises:
        UserError: it is not finished, trained no row's config, or its weights are not those of its record.
    """
    run = read_run(folder)
    result = run.finished()
    config = config_of_run(run.config, folder / "config.yaml")
    if not run.weights.is_file() or file_hash(run.weights) != result.checkpoint_sha256:
        raise UserError(f"{run.weights}: not the weights whose hash {folder / run.RESULT} names")
    if result.eval_images is None:
        raise UserError(f"{folder / run.RESULT}: no evaluation is in it")
    return Record(
        config=config,
        task="classification",
        kind="trained",
        metrics=metrics_of(result, result.labels),
        dataset=result.dataset,
        images=result.eval_images,
        checkpoint_sha256=result.checkpoint_sha256,
        commit=result.commit,
        seed=result.seed,
        epochs=result.epochs,
        precision=result.precision,
    )


def of_evaluation(path: Path, config: str) -> Record:
    """The record of an evaluation of weights from elsewhere.

    Raises:
        UserError: no row has the config, or the evaluation is of another model.
    """
    if config not in row_configs():
        raise UserError(f"--config {config}: no row has it; {hint(config, row_configs())}")
    result = EvalResult.from_json(read_json(path), str(path))
    model = row_config(config).model.name
    if result.model != model:
        raise UserError(f"{path}: model: {result.model!r}, but {config} is {model!r}")
    return Record(
        config=config,
        task="classification",
        kind="evaluated",
        metrics=metrics_of(result, result.labels),
        dataset=result.dataset,
        images=result.images,
        checkpoint_sha256=result.checkpoint_sha256,
        commit=git_commit(),
        seed=None,
        epochs=None,
        precision=result.precision,
    )


def metrics_of(result: RunResult | EvalResult, labels: str) -> dict[str, float]:
    """The accuracies of a record under the names that the tables' columns have."""
    return {ours: float(getattr(result, theirs)) for theirs, ours in METRICS[labels].items()}


def check_data(record: Record) -> None:
    """Raises UserError for a record that is not of ImageNet's whole validation set."""
    if record.images > IMAGES or ("top1" in record.metrics and record.images != IMAGES):
        raise UserError(
            f"{record.dataset}: {record.images} images were evaluated; the paper's rows are on all {IMAGES} of "
            f"ImageNet-1K's validation set"
        )


@cli.command("record_result")
def main() -> None:
    args = parser().parse_args()
    if (args.run is None) == (args.evaluation is None) or (args.evaluation is None) != (args.config is None):
        raise UserError("give RUN, or --evaluation FILE and --config CONFIG")
    record = of_run(args.run) if args.run else of_evaluation(args.evaluation, args.config)
    check_data(record)
    added = add_record(record)
    print(f"{'recorded' if added else 'known already'}: {record.config} {record.metrics} in {shown(TABLES / RESULTS)}")


if __name__ == "__main__":
    sys.exit(main())
