"""Evaluate every released weight whose data are in DATA, beside the paper: ``make reproduce DATA=/datasets``.

Finds ImageNet's validation set (in any form of docs/data.md), COCO's val2017 and ADE20K's in the folder, and evaluates
the classifiers (top-1 and ReaL), detectors and segmentors that the authors and Swin have released by eval_cls.py,
detection/test.py and segmentation/test.py. What is finished is kept in the output folder and never evaluated again;
the same command goes on with the rest. Whole validation sets fill the cells of the tables (configs/tables); `--images`
takes a random part of each for a first look, which fills none. docs/reproduce.md has more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that holds the data sets, or is one")
    parser.add_argument("--imagenet", type=Path, metavar="DIR", help="where ImageNet is, in place of a search in DATA")
    parser.add_argument("--coco", type=Path, metavar="DIR", help="the same of COCO")
    parser.add_argument("--ade20k", type=Path, metavar="DIR", help="the same of ADEChallengeData2016")
    parser.add_argument("--images", type=int, metavar="N", help="a first look: a random part of N images of each set")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="such as dw_conv_tiny (default: all)")
    parser.add_argument("--gpus", type=int, metavar="N", help="processes, one a GPU (default: all GPUs, or the CPU)")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="folder of the results")
    parser.add_argument("--tables", type=Path, help="folder of the tables to fill (default: configs/tables)")
    parser.add_argument("--plan", action="store_true", help="say what would be evaluated and what is missing, and end")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from importlib.util import find_spec

import torch

from engine.errors import EXIT_FAILURE
from engine.runfolder import RunLock
from models.download import cached
from models.errors import UserError, hint
from models.released import RELEASES, Task
from tools.reproduction import report
from tools.reproduction.evaluations import Evaluation, plan
from tools.reproduction.places import NEEDED, Place, find_places
from tools.reproduction.runner import EvaluationFailed, run_all
from tools.tables.loading import RESULTS, TABLES, load_tables, shown
from tools.tables.recording import of_evaluation
from tools.tables.results import add_record

SHOW = "what was recorded is shown by `python tools/make_tables.py`; `--write` puts it into the pages"


def say(text: str) -> None:
    """A line at once, for whoever watches through a pipe."""
    print(text, flush=True)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises UserError for a number below 1, more GPUs than there are, or a model without released weights."""
    for name in ("images", "gpus"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    there = torch.cuda.device_count()
    if args.gpus and args.gpus > max(1, there):
        raise UserError(f"--gpus {args.gpus}: this machine has {there}")
    known = {model for model, _ in RELEASES}
    for model in args.only:
        if model not in known:
            raise UserError(f"--only {model}: no released weights; {hint(model, known)}")


def without_library(task: Task) -> str | None:
    """The library that a task needs, if it is not installed."""
    name = {"classification": None, "detection": "mmdet", "segmentation": "mmseg"}[task]
    return name if name and find_spec(name) is None else None


def show_plan(evaluations: list[Evaluation], places: dict[Task, Place], only: list[str]) -> None:
    """What is there, and for each release what will be evaluated or what is missing."""
    for task, needed in NEEDED.items():
        place, library = places.get(task), without_library(task)
        there = f"missing: {needed}" if place is None else f"{place.images:,} images in {place.root}"
        say(f"{task}: {there}" + (f"; {library} is missing: make setup-dense" if library else ""))
    for release in RELEASES.values():
        own = [each for each in evaluations if each.release is release]
        if only and release.model not in only:
            continue
        what = " and ".join(each.title.split(", ")[1] for each in own)
        what = f"{what} on {own[0].images:,} images" if own else f"cannot be evaluated: {release.task} is missing"
        say(f"  {release.file}: {what}; the file is {'here' if cached(release).is_file() else 'fetched first'}")


def record(evaluation: Evaluation, folder: Path) -> str:
    """Fill the cells of the tables; a line on it. What is not of a whole validation set is refused by its rule."""
    release = evaluation.release
    config = release.config if release.task == "classification" else None
    try:
        added = add_record(of_evaluation(evaluation.result, config, release=release.file, folder=folder), folder)
    except UserError as error:
        return f"not recorded: {error}"
    return f"{'recorded' if added else 'recorded before'} in {shown(folder / RESULTS)}"


def reproduce(args: argparse.Namespace) -> int:
    """Find, evaluate, record, compare; the exit status."""
    given = {"classification": args.imagenet, "detection": args.coco, "segmentation": args.ade20k}
    places = find_places(args.data, {task: path for task, path in given.items() if path})  # type: ignore[misc]
    folder = args.output / f"first_{args.images}" if args.images else args.output
    usable = {task: place for task, place in places.items() if without_library(task) is None}
    evaluations = plan(usable, folder, args.images, args.only)
    show_plan(evaluations, places, args.only)
    if args.plan:
        return 0
    lock = RunLock(folder)
    results, failures = {}, []
    for evaluation, outcome in run_all(evaluations, args.gpus or max(1, torch.cuda.device_count()), say):
        if isinstance(outcome, EvaluationFailed):
            failures.append(f"{evaluation.title}: {outcome}")
            continue
        results[evaluation.name] = outcome
        if not args.images:
            say(f"{evaluation.title}: {record(evaluation, args.tables or TABLES)}")
    lock.release()
    found = [each for one in evaluations if one.name in results for each in report.measures(one, results[one.name])]
    say("\n" + report.as_text(found, load_tables(), intervals=bool(args.images)) + "\n")
    say(SHOW if not args.images else "a part of the images: a first look, which fills no cell of a table")
    for line in failures:
        print(f"reproduce: {line}", file=sys.stderr)
    return EXIT_FAILURE if failures else 0


@cli.command("reproduce")
def main() -> int:
    args = parser().parse_args()
    check_arguments(args)
    return reproduce(args)


if __name__ == "__main__":
    sys.exit(main())
