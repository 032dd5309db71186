"""Draw runs in one figure: ``python tools/plot_curves.py RUN ... [--output FILE.png] [--labels A,B]``.

Training loss and validation top-1 over the epochs, as in the paper's Figures 5 to 7, from the `log.jsonl` that every
run folder holds, of finished and of running ones.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli

DEFAULT_OUTPUT = Path("curves.png")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"image (default: {DEFAULT_OUTPUT})")
    parser.add_argument("--labels", help="names of the runs, separated by commas (default: their folders)")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import matplotlib
import matplotlib.pyplot as plt

from engine.records import read_run
from models.errors import UserError

matplotlib.use("Agg")


@dataclass(frozen=True)
class Curve:
    """One run: epochs with their mean training loss, and epochs with an evaluation."""

    label: str
    loss: list[tuple[int, float]]
    top1: list[tuple[int, float]]


def read_curve(folder: Path, label: str | None = None) -> Curve:
    """Read the epochs of a run folder; a last line cut by a kill is left out.

    Raises:
        UserError: there is no such run, a line is no record, or no epoch has ended yet.
    """
    epochs = read_run(folder).epochs
    if not epochs:
        raise UserError(f"{folder / 'log.jsonl'}: no epoch has ended yet")
    loss = [(record.epoch, record.train_loss) for record in epochs if record.train_loss is not None]
    top1 = [(record.epoch, record.top1) for record in epochs if record.top1 is not None]
    return Curve(label or folder.name, loss, top1)


def draw(curves: list[Curve], path: Path) -> None:
    """Draw curves to an image file: training loss on the left, validation top-1 on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = plt.get_cmap("tab10" if len(curves) <= 10 else "turbo")
    for index, curve in enumerate(curves):
        colour = colours(index if len(curves) <= 10 else index / (len(curves) - 1))
        for axis, points in ((left, curve.loss), (right, curve.top1)):
            marker = "o" if len(points) == 1 else ""
            axis.plot([x for x, _ in points], [y for _, y in points], marker=marker, color=colour, label=curve.label)
    for axis, label in ((left, "training loss"), (right, "validation top-1 (%)")):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(loc="lower right", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@cli.command("plot_curves")
def main() -> None:
    args = parser().parse_args()
    labels = args.labels.split(",") if args.labels else [None] * len(args.runs)
    if len(labels) != len(args.runs):
        raise UserError(f"--labels: {len(labels)} names for {len(args.runs)} runs")
    if args.output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {args.output}: the name must end in .png, .pdf or .svg")
    draw([read_curve(run, label) for run, label in zip(args.runs, labels, strict=True)], args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
