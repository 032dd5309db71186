"""Train a grid of configs and seeds: ``python tools/sweep.py GRID.yaml [--jobs N | --gpus 0,1] [--output DIR]``.

Runs one after another or side by side, each in a folder of its own. The same command goes on with a sweep that was
stopped; finished runs are not run again, and with `--save FILE` neither are those that FILE holds from another day or
machine. It ends with a table (mean and standard deviation over seeds), results.json and figure.png in the output
folder.
"""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path, help="YAML file of runs, seeds and groups")
    parser.add_argument("--output", type=Path, help="folder of the runs (default: runs/NAME)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side on the CPU (default: 1)")
    parser.add_argument("--gpus", default="", metavar="0,1", help="one run at a time on each of these GPUs")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="keep the results there, the figure beside it")
    parser.add_argument(
        "--help-grid", action=cli.explaining("tools.sweeps.grid", "Grid"), nargs=0, help="a grid's keys"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: results of what is finished")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from engine.errors import EXIT_FAILURE, EXIT_STOPPED
from models.errors import UserError
from tools.sweeps import figure, report
from tools.sweeps.grid import Grid, load_grid
from tools.sweeps.jobs import Job, jobs
from tools.sweeps.kept import Kept, kept_cells, still_to_train
from tools.sweeps.runner import Sweep, check_configs, slots


def finish(grid: Grid, work: list[Job], output: Path, copy: Path | None, kept: Kept) -> None:
    """Collect, save, draw and print."""
    command = [argument for argument in sys.argv if argument != "--report"]  # what a reader repeats trains, too
    results = report.collect(grid, work, shlex.join(["python", *command]), kept)
    for path in (output / "results.json", copy):
        if path is not None:
            report.save(results, path)
            figure.draw(results, path.with_suffix(".png"))
            print(f"wrote {path} and {path.with_suffix('.png').name}")
    print(f"\n{report.as_text(results)}")


def sweep(args: argparse.Namespace) -> int:
    """Run a grid; the exit status."""
    grid = load_grid(args.grid)
    output = args.output or Path("runs") / grid.name
    work = jobs(grid, output, ROOT)
    check_configs(work)
    kept = kept_cells(args.save, work)
    if not args.report:
        gpus = [gpu for gpu in args.gpus.split(",") if gpu]
        left = still_to_train(work, kept)
        if len(left) < len(work):
            print(f"{len(work) - len(left)} of {len(work)} runs are in {args.save}", flush=True)
        run = Sweep(left, slots(args.jobs, gpus), lambda text: print(text, flush=True))
        if not run.run():
            if args.save is not None:
                finish(grid, work, output, args.save, kept)
            print("stopped; the same command goes on", file=sys.stderr)
            return EXIT_STOPPED
        if run.failed:
            names = ", ".join(f"{job.run.name} seed {job.seed}" for job, _ in run.failed)
            print(f"sweep: these runs failed: {names}", file=sys.stderr)
            return EXIT_FAILURE
    finish(grid, work, output, args.save, kept)
    return 0


@cli.command("sweep")
def main() -> int:
    args = parser().parse_args()
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least 1")
    return sweep(args)


if __name__ == "__main__":
    sys.exit(main())
