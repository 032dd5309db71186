"""Break small runs on purpose and count what comes of it: python -m tests.faults [--short] [--only TEXT].

The full suite writes its table to benchmarks/faults.md and benchmarks/faults.json. Exit status 1 when a trial fails.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine import cli  # noqa: E402
from engine.runfolder import describe_run  # noqa: E402
from models.errors import UserError  # noqa: E402
from tests.faults.small_run import SmallRuns  # noqa: E402
from tests.faults.trials import SUITE, Outcome, load_suite, try_fault  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Break small runs on purpose and count what comes of it.")
    parser.add_argument("--short", action="store_true", help="the few trials that are also inside the tests")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains TEXT")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places")
    parser.add_argument("--output", type=Path, help="folder of the table; by default benchmarks/ for full trials")
    return parser


@cli.command("error")
def main() -> int:
    """Do the trials and print a line for each fault as it is done."""
    arguments = parser().parse_args()
    chosen = [item for item in load_suite() if arguments.only in item.name]
    if not chosen:
        raise UserError(f"--only: no fault contains '{arguments.only}'")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        small_runs = SmallRuns(Path(folder))
        for item in chosen:
            trials = item.short if arguments.short else item.full
            if trials:
                outcomes.append(try_fault(item, small_runs, trials, arguments.seed))
                _say(outcomes[-1])
    output = arguments.output or (None if arguments.short else ROOT / "benchmarks")
    if output is not None:
        write_table(output, outcomes, arguments.seed)
    return int(any(o.passed < o.total for o in outcomes))


def _say(outcome: Outcome) -> None:
    print(f"{outcome.passed:4d} of {outcome.total:<4d} {outcome.name}  ({outcome.seconds:.0f} s)", flush=True)
    for failure in outcome.failures:
        print(f"       FAILED: {failure}", flush=True)


def write_table(folder: Path, outcomes: list[Outcome], seed: int) -> None:
    """Write ``faults.json`` and the table of it, ``faults.md``; rows of faults that were not tried now stay."""
    about = describe_run()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "faults.json"
    rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    for outcome in outcomes:
        rows[outcome.name] = {
            **{key: getattr(outcome, key) for key in ("name", "expected", "passed", "total", "failures")},
            "seconds": round(outcome.seconds),
            "seed": seed,
            "commit": about["commit"],
            "machine": f"{about['cpus']} CPU cores, {platform.machine()}, torch {about['versions']['torch']}",
        }
    ordered = [rows[item.name] for item in SUITE if item.name in rows]
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    passed, total = (sum(row[key] for row in ordered) for key in ("passed", "total"))
    lines = [
        "# Fault suite",
        "",
        "Written by `make faults` (`python -m tests.faults`) from `faults.json`; do not edit. Small runs on "
        f"{' and '.join(sorted({row['machine'] for row in ordered}))}.",
        "",
        "| fault | what must come of it | seen | seconds | commit |",
        "|---|---|---|---|---|",
        *(
            f"| {row['name']} | {row['expected']} | {row['passed']} of {row['total']} | {row['seconds']} "
            f"| {row['commit'][:10]}{'-dirty' * row['commit'].endswith('-dirty')} |"
            for row in ordered
        ),
        f"| **all** | | **{passed} of {total}** | {sum(row['seconds'] for row in ordered)} | |",
        "",
    ]
    (folder / "faults.md").write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
