"""The paper's tables beside ours: ``python tools/make_tables.py [--table N] [--check | --write] [--json]``.

Each row shows what the paper prints, what our build of it costs, what was measured, its status (cost verified,
trained, evaluated, not run) and the command that would train it. `--check` fails when README or docs hold a table that
is not what the data gives, or a cost contradicts the paper; `--write` generates those tables anew.
"""

import argparse
import json
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", metavar="N", help="one table, such as 5 or figure3 (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="fail when a page or a cost is not what the data gives")
    mode.add_argument("--write", action="store_true", help="write the generated tables of README and docs")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from engine.errors import EXIT_FAILURE
from models.errors import UserError, hint
from tools.sweeps import report
from tools.tables import model_list, questions
from tools.tables import render as pages
from tools.tables.entries import TableEntry, build_entries, load_entries
from tools.tables.loading import ROOT, load_expected_costs, load_tables, shown
from tools.tables.render import as_markdown, as_text
from tools.tables.results import load_records
from tools.tables.schema import Table
from tools.text import markdown_table


def select(tables: list[Table], name: str | None) -> list[Table]:
    """The table of a name such as "5" or "figure3", or all.

    Raises:
        UserError: there is no such table.
    """
    if name is None:
        return tables
    known = [table.table for table in tables]
    wanted = name.lower().removeprefix("table").replace(" ", "").removeprefix("fig").removeprefix("ure")
    wanted = f"figure{wanted}" if name.lower().startswith("fig") else wanted
    if wanted not in known:
        raise UserError(f"--table {name}: no such table; {hint(wanted, known)}")
    return [table for table in tables if table.table == wanted]


def generators() -> dict[str, pages.Generator]:
    """What fills the blocks of a page; each table is counted once."""
    tables = {table.table: table for table in load_tables()}
    proofs, records = load_expected_costs(), load_records()

    @cache
    def table(name: str) -> str:
        (one,) = select(list(tables.values()), name)
        return as_markdown(one, build_entries(one, proofs, records))

    return {
        "table": table,
        "zoo": lambda folder: pages.zoo_table(list(tables.values()), records, folder),
        "sweep": lambda name: report.as_markdown(ROOT / name),
        "models": lambda which: markdown_table(model_list.table(which)),
        "weights": lambda family: markdown_table(model_list.weights_table(family, list(tables.values()))),
        "questions": lambda name: questions.as_markdown(ROOT / name, list(tables.values())),
    }


def check(tables: list[Table]) -> int:
    """Print every page that is stale and every cost that contradicts the paper; 1 if there is any."""
    found = pages.stale(pages.pages(), generators())
    for name, entries in load_entries(tables).items():
        for entry in entries:
            if entry.wrong:
                found.append(f"table {name}, row {entry.row.key!r}: {'; '.join(entry.wrong)}")
    for line in found:
        print(f"make_tables: {line}", file=sys.stderr)
    if found:
        print("make_tables: run 'python tools/make_tables.py --write' where only a page is stale", file=sys.stderr)
        return EXIT_FAILURE
    print(f"{len(tables)} tables: costs and pages are what the data gives")
    return 0


def show(tables: list[Table], as_json: bool) -> None:
    """Print the tables as text or JSON."""
    by_table = load_entries(tables)
    if as_json:
        everything: list[TableEntry] = [entry for table in tables for entry in by_table[table.table]]
        print(json.dumps([entry.as_json() for entry in everything], indent=1))
    else:
        print("\n\n\n".join(as_text(table, by_table[table.table]) for table in tables))


@cli.command("make_tables")
def main() -> int:
    args = parser().parse_args()
    tables = select(load_tables(), args.table)
    if args.check:
        return check(tables)
    if args.write:
        for path in pages.write(pages.pages(), generators()):
            print(f"wrote {shown(path)}")
    else:
        show(tables, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
