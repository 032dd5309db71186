"""Draw figures: ``python tools/plot.py curves RUN ...``, ``tradeoff RESULTS.json`` and ``questions QUESTIONS.yaml``.

`curves`: training loss and validation score over the epochs, as in the paper's Figures 5 to 7, of finished and running
runs. `tradeoff`: accuracy of a sweep's results against parameters, multiply-adds and, from a report of
benchmarks/speed.py, speed. `questions`: the answers of a file of questions beside the paper's.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="curves|tradeoff|questions")
    curves = kinds.add_parser("curves", help="runs in one figure")
    curves.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    curves.add_argument("--labels", help="names of the runs, separated by commas (default: where their paths differ)")
    tradeoff = kinds.add_parser("tradeoff", help="accuracy against cost")
    tradeoff.add_argument("results", type=Path, metavar="RESULTS.json")
    tradeoff.add_argument("--speed", type=Path, metavar="REPORT.json", help="report of benchmarks/speed.py")
    questions = kinds.add_parser("questions", help="answers of sweeps beside the paper's")
    questions.add_argument("questions", type=Path, metavar="QUESTIONS.yaml")
    for kind, name in ((curves, "curves.png"), (tradeoff, "tradeoff.png"), (questions, "questions.png")):
        kind.add_argument("--output", type=Path, default=Path(name), help=f"image (default: {name})")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from engine.records import ValidationRecord, read_run
from models.errors import UserError
from tools.sweeps import report
from tools.tables import forest
from tools.tables.loading import load_tables
from tools.tables.questions import answer, load_questions

matplotlib.use("Agg")


@dataclass(frozen=True)
class Curve:
    """One run: the mean training loss and the validation score over epochs, or over iterations."""

    label: str
    loss: list[tuple[int, float]]
    score: list[tuple[int, float]]
    name: str = "top-1 (%)"
    over: str = "epoch"


def read_curve(folder: Path, label: str | None = None) -> Curve:
    """Read what a run folder has so far; a last line cut by a kill is left out.

    Raises:
        UserError: there is no such run, a line is no record, or no epoch has ended yet.
    """
    run = read_run(folder)
    if run.validations:
        return _dense_curve(run.validations, label or folder.name)
    if not run.epochs:
        raise UserError(f"{folder / 'log.jsonl'}: no epoch has ended yet")
    loss = [(record.epoch, record.train_loss) for record in run.epochs if record.train_loss is not None]
    score = [(record.epoch, record.top1) for record in run.epochs if record.top1 is not None]
    return Curve(label or folder.name, loss, score)


SCORES = {"coco/bbox_mAP": ("box AP", 100.0), "mIoU": ("mIoU (%)", 1.0)}


def _dense_curve(records: list[ValidationRecord], label: str) -> Curve:
    """Box AP of a detector, mean IoU of a segmentor, or the first metric of another library's model."""
    key = next((key for key in SCORES if key in records[0].metrics), next(iter(records[0].metrics), ""))
    name, factor = SCORES.get(key, (key, 1.0))
    over = "iteration" if records[0].epoch is None else "epoch"
    at = [(record.iteration if record.epoch is None else record.epoch, record) for record in records]
    loss = [(x, record.train_loss) for x, record in at if record.train_loss is not None]
    score = [(x, value * factor) for x, record in at if (value := record.metrics.get(key)) is not None]
    return Curve(label, loss, score, name, over)


def run_labels(folders: list[Path]) -> list[str]:
    """Names that tell runs apart: the parts of their paths that are not the same in all of them."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    parts = [folder.resolve().parts for folder in folders]
    depth = max(map(len, parts))
    padded = [("",) * (depth - len(path)) + path for path in parts]
    differ = [index for index in range(depth) if len({path[index] for path in padded}) > 1]
    return ["/".join(path[index] for index in differ if path[index]) or path[-1] for path in padded]


def draw_curves(curves: list[Curve], path: Path) -> None:
    """Draw curves to an image file: training loss on the left, the validation score on the right.

    Raises:
        UserError: the runs were measured in different things.
    """
    kinds = list(dict.fromkeys((curve.over, curve.name) for curve in curves))
    if len(kinds) > 1:
        texts = " and ".join(f"{name} over {over}s" for over, name in kinds[:2])
        raise UserError(f"curves: {texts} do not go into one figure")
    ((over, name),) = kinds
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = plt.get_cmap("tab10" if len(curves) <= 10 else "turbo")
    for index, curve in enumerate(curves):
        colour = colours(index if len(curves) <= 10 else index / (len(curves) - 1))
        for axis, points in ((left, curve.loss), (right, curve.score)):
            marker = "o" if len(points) == 1 else ""
            axis.plot([x for x, _ in points], [y for _, y in points], marker=marker, color=colour, label=curve.label)
    for axis, label in ((left, "training loss"), (right, f"validation {name}")):
        axis.set_xlabel(over)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(loc="lower right", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


Panel = tuple[str, dict[str, float]]


def read_speed(path: Path) -> Panel:
    """The axis label and images per second by config of a benchmark report.

    Raises:
        UserError: the file is missing or no such report.
    """
    try:
        (group,) = json.loads(path.read_text(encoding="utf-8"))["groups"]
        work = group["work"]
        label = f"images/s ({work['mode']}, {work['dtype']}, batch {work['batch']}, {work['device']})"
        timed = [row["model"].split("+")[0] for row in group["rows"]]
        speeds = dict(zip(timed, (row["images_per_second"] for row in group["rows"]), strict=True))
    except OSError as error:
        raise UserError(f"--speed {path}: {error.strerror}; benchmarks/speed.py --output writes it") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise UserError(f"--speed {path}: no report of one comparison by benchmarks/speed.py") from None
    twice = [name for name in speeds if timed.count(name) > 1]
    if twice:
        raise UserError(f"--speed {path}: {twice[0]} was timed more than once, as it is and changed; time it once")
    return label, speeds


def panels(rows: list[report.SweepRow], speed: Panel | None) -> list[Panel]:
    """Axis label and value by run name, for each panel.

    Raises:
        UserError: a run has no measured speed.
    """
    found: list[Panel] = [
        ("parameters (M)", {row.name: row.params / 1e6 for row in rows}),
        ("multiply-adds (M)", {row.name: row.macs / 1e6 for row in rows}),
    ]
    if speed is not None:
        label, by_config = speed
        missing = [row.config for row in rows if row.config not in by_config]
        if missing:
            raise UserError(f"--speed: {missing[0]} was not timed; give it to benchmarks/speed.py with the others")
        found.append((label, {row.name: by_config[row.config] for row in rows}))
    return found


MARKERS = "osD^vP*X<>"


def draw_tradeoff(results: report.SweepResult, speed: Panel | None, path: Path) -> None:
    """Draw one panel for each cost; bars are the standard deviation over seeds."""
    rows = [row for row in results.rows if row.mean is not None]
    if not rows:
        raise UserError("no run of these results is finished")
    figure = tradeoff_figure(results.title, rows, panels(rows, speed))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tradeoff_figure(title: str, rows: list[report.SweepRow], wanted: list[Panel]) -> Figure:
    """The panels side by side. Names stand in one legend: beside points that lie close they would cover each other."""
    figure, axes = plt.subplots(1, len(wanted), figsize=(4.2 * len(wanted), 4), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10")
    for axis, (label, values) in zip(axes, wanted, strict=True):
        for index, row in enumerate(rows):
            style = {"fmt": MARKERS[index % len(MARKERS)], "color": colours(index % 10), "capsize": 3}
            axis.errorbar(values[row.name], row.mean, yerr=row.std or 0.0, label=row.label, **style)
        axis.set_xlabel(label)
        axis.margins(x=0.1, y=0.1)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(report.METRICS[rows[0].task].name)
    figure.suptitle(title, fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


@cli.command("plot")
def main() -> None:
    args = parser().parse_args()
    if args.output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {args.output}: the name must end in .png, .pdf or .svg")
    if args.kind == "tradeoff":
        draw_tradeoff(report.load(args.results), None if args.speed is None else read_speed(args.speed), args.output)
    elif args.kind == "questions":
        tables = {table.table: table for table in load_tables()}
        asked = load_questions(args.questions)
        forest.draw([(question.question, answer(question, tables)) for question in asked], args.output)
    else:
        labels = args.labels.split(",") if args.labels else run_labels(args.runs)
        if len(labels) != len(args.runs):
            raise UserError(f"--labels: {len(labels)} names for {len(args.runs)} runs")
        draw_curves([read_curve(run, label) for run, label in zip(args.runs, labels, strict=True)], args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
