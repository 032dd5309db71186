"""Break small runs on purpose and count what comes of it: python tools/faults.py [--short] [--only TEXT].

The full suite writes its table to benchmarks/faults.md and benchmarks/faults.json. Exit status 1 when a trial fails.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.runfolder import describe_run  # noqa: E402
from tools.fault_suite import checkpoints, machines, numbers, resume, safety, stops  # noqa: E402, F401
from tools.fault_suite.outcome import SUITE, Outcome, try_fault  # noqa: E402
from tools.fault_suite.workshop import Workshop  # noqa: E402


def main() -> int:
    """Do the trials and print a line for each fault as it is done."""
    parser = argparse.ArgumentParser(description="Break small runs on purpose and count what comes of it.")
    parser.add_argument("--short", action="store_true", help="the few trials that are also inside the tests")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains TEXT")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places")
    parser.add_argument(
        "--output", type=Path, help="folder for the table; default benchmarks/ for the whole full suite"
    )
    arguments = parser.parse_args()
    chosen = [item for item in SUITE if arguments.only in item.name]
    if not chosen:
        print(f"error: --only: no fault contains '{arguments.only}'", file=sys.stderr)
        return 2
    began = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        workshop = Workshop(Path(folder))
        for item in chosen:
            trials = item.short if arguments.short else item.full
            if trials:
                outcomes.append(try_fault(item, workshop, trials, arguments.seed))
                _say(outcomes[-1])
    output = arguments.output or (None if arguments.short or arguments.only else ROOT / "benchmarks")
    if output is not None:
        write_table(output, outcomes, time.monotonic() - began, arguments.seed)
    return int(any(o.passed < o.total for o in outcomes))


def _say(outcome: Outcome) -> None:
    print(f"{outcome.passed:4d} of {outcome.total:<4d} {outcome.name}  ({outcome.seconds:.0f} s)", flush=True)
    for failure in outcome.failures:
        print(f"       FAILED: {failure}", flush=True)


def write_table(folder: Path, outcomes: list[Outcome], seconds: float, seed: int) -> None:
    """Write ``faults.json`` and the table of it, ``faults.md``."""
    about = describe_run()
    record = {
        "command": "python tools/faults.py",
        "seed": seed,
        "seconds": round(seconds),
        "machine": f"{about['cpus']} CPU cores, {platform.machine()}, {platform.system()}",
        "versions": about["versions"],
        "commit": about["commit"],
        "faults": [{k: getattr(o, k) for k in ("name", "expected", "passed", "total", "failures")} for o in outcomes],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [f"| {o.name} | {o.expected} | {o.passed} of {o.total} |" for o in outcomes]
    total, passed = sum(o.total for o in outcomes), sum(o.passed for o in outcomes)
    text = [
        "# Fault suite",
        "",
        f"Written by `{record['command']}` (`make faults`) at commit {about['commit'][:12]}, seed {seed}, in "
        f"{seconds / 60:.0f} minutes on {record['machine']}, torch {about['versions']['torch']}. Do not edit.",
        "",
        "| fault | what must come of it | seen |",
        "|---|---|---|",
        *rows,
        f"| **all** | | **{passed} of {total}** |",
        "",
    ]
    (folder / "faults.md").write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
