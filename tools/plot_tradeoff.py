"""Accuracy against cost: ``python tools/plot_tradeoff.py RESULTS.json [--speed REPORT.json] [--output FILE.png]``.

RESULTS is what `tools/sweep.py --save` wrote: top-1 of each run over its parameters and multiply-adds. REPORT is what
`benchmarks/speed.py CONFIG ... --output` wrote about the same configs: a third panel over images per second.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--speed", type=Path, metavar="REPORT.json", help="report of benchmarks/speed.py")
    parser.add_argument("--output", type=Path, default=Path("tradeoff.png"), help="image (default: tradeoff.png)")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import matplotlib
import matplotlib.pyplot as plt

from models.errors import UserError
from tools.sweeps import report

matplotlib.use("Agg")


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
        return label, {row["model"].split("+")[0]: row["images_per_second"] for row in group["rows"]}
    except OSError as error:
        raise UserError(f"--speed {path}: {error.strerror}; benchmarks/speed.py --output writes it") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise UserError(f"--speed {path}: no report of one comparison by benchmarks/speed.py") from None


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


def draw(results: report.SweepResult, speed: Panel | None, path: Path) -> None:
    """Draw one panel for each cost; bars are the standard deviation over seeds."""
    rows = [row for row in results.rows if row.mean is not None]
    if not rows:
        raise UserError("no run of these results is finished")
    wanted = panels(rows, speed)
    figure, axes = plt.subplots(1, len(wanted), figsize=(4.2 * len(wanted), 3.8), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10")
    for axis, (label, values) in zip(axes, wanted, strict=True):
        for index, row in enumerate(rows):
            point = (values[row.name], row.mean)
            axis.errorbar(*point, yerr=row.std or 0.0, fmt="o", capsize=3, color=colours(index))
            axis.annotate(row.label, point, xytext=(6, 5), textcoords="offset points", fontsize=8)
        axis.set_xlabel(label)
        axis.margins(x=0.3, y=0.15)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(report.METRICS[rows[0].task].name)
    figure.suptitle(results.title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@cli.command("plot_tradeoff")
def main() -> None:
    args = parser().parse_args()
    draw(report.load(args.results), None if args.speed is None else read_speed(args.speed), args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    sys.exit(main())
