"""Write small faults into the code, count which the tests notice: python -m tests.mutants [--sample N] [--only TEXT].

The table goes to benchmarks/mutants.md and benchmarks/mutants.json; rows of modules that were not tried now stay.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine import cli  # noqa: E402
from engine.runfolder import git_commit  # noqa: E402
from models.errors import UserError  # noqa: E402
from tests.mutants.changed import ChangedCheckout  # noqa: E402
from tests.mutants.page import write_page  # noqa: E402
from tests.mutants.suite import SUITE, Group  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write small faults into the code and count which the tests notice.")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="mutants of each module, by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of that chance")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="modules whose path contains TEXT, or one of several"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="folder of the table")
    return parser


@cli.command("error")
def main() -> int:
    """Try the mutants, group by group, and write the table after each."""
    arguments = parser().parse_args()
    only = arguments.only or [""]
    checkout = ChangedCheckout(ROOT, ROOT / "build" / "mutants", list(SUITE))
    commit, found = git_commit(), False
    for group in SUITE:
        modules = [module for module in checkout.modules(group) if any(text in module for text in only)]
        if not modules:
            continue
        found = True
        chosen = {module: checkout.sample(module, arguments.sample, arguments.seed) for module in modules}
        outcomes = _try(checkout, group, [name for names in chosen.values() for name in names])
        rows = [_row(checkout, module, {name: outcomes[name] for name in names}) for module, names in chosen.items()]
        about = {
            "seed": arguments.seed,
            "commit": commit,
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        }
        write_page(arguments.output, [row | about for row in rows])
        for row in rows:
            print(f"{row['caught']:5d} of {row['tried']:<5d} {row['module']}", flush=True)
    if not found:
        raise UserError(f"--only: no module contains {' or '.join(map(repr, only))}")
    return 0


def _try(checkout: ChangedCheckout, group: Group, names: list[str]) -> dict[str, list[Any]]:
    """What became of each mutant: see :mod:`tests.mutants.loop`.

    Raises:
        UserError: a test fails without any mutant.
    """
    plan = checkout.folder / f"{group.name}.json"
    plan.write_text(json.dumps(names))
    result = plan.with_name(plan.name + ".out")
    result.unlink(missing_ok=True)
    options = ["-q", "-s", "-p", "tests.mutants.loop", "-p", "no:cacheprovider", "-o", "timeout=0"]
    command = [sys.executable, "-m", "pytest", *options, f"--basetemp={plan}.tmp", f"--mutants={plan}", *group.tests]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout.folder)}
    done = subprocess.run(command, cwd=checkout.folder, env=environment, capture_output=True, text=True)
    outcomes = {name: rest for name, *rest in _lines(result)}
    if len(outcomes) < len(names):
        raise UserError(f"{group.name}: {' '.join(done.stdout.split())[-500:]}")
    return outcomes


def _lines(path: Path) -> Iterator[list[Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text().splitlines())


def _row(checkout: ChangedCheckout, module: str, outcomes: dict[str, list[Any]]) -> dict[str, Any]:
    survived = [name for name, (status, *_) in outcomes.items() if status == "survived"]
    return {
        "module": module,
        "mutants": len(checkout.mutants(module)),
        "tried": len(outcomes),
        "caught": len(outcomes) - len(survived),
        "seconds": round(sum(cost for *_, cost in outcomes.values()), 1),
        "survivors": [asdict(checkout.change(module, name)) for name in survived],
    }


if __name__ == "__main__":
    sys.exit(main())
