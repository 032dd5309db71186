"""The files of configs/tables: where they lie, and what is wrong with one, by row and key."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.config import read_mapping
from models.errors import UserError, hint
from tools.tables.printed import parse_printed
from tools.tables.schema import Column, ExpectedCost, Row, Table

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "configs" / "tables"
EXPECTED_COSTS = "expected_costs.yaml"
RESULTS = "results.yaml"
QUESTIONS = "questions.yaml"


def shown(path: Path) -> str:
    """A path as messages show it: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def load_table(path: Path) -> Table:
    """Load one table file. A UserError names the file, the row and the key of the first thing that is wrong."""
    data = read_mapping(path)
    try:
        table = Table.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{shown(path)}: {describe(error, data)}") from error
    for problem in problems(table):
        raise UserError(f"{shown(path)}: {problem}")
    return table


def load_tables(folder: Path = TABLES) -> list[Table]:
    """All tables of a folder in the paper's order, each found in the file of its name."""
    tables = []
    for path in sorted(folder.glob("*.yaml")):
        if path.name in (EXPECTED_COSTS, RESULTS, QUESTIONS):
            continue
        table = load_table(path)
        if path.stem != file_stem(table.table):
            raise UserError(f"{shown(path)}: table: {table.table!r} belongs in {file_stem(table.table)}.yaml")
        tables.append(table)
    return sorted(tables, key=_papers_order)


def _papers_order(table: Table) -> tuple[bool, bool, int, str]:
    number = "0" if table.is_own else table.table.removeprefix("figure")
    return table.is_own, table.table.startswith("figure"), int(number), table.table


def load_expected_costs(folder: Path = TABLES) -> dict[str, ExpectedCost]:
    """What each config must cost, by config."""
    path = folder / EXPECTED_COSTS
    data = read_mapping(path)
    proofs = {}
    for config, fields in data.items():
        try:
            proof = ExpectedCost.model_validate(fields)
            proof.expected()
        except ValidationError as error:
            raise UserError(f"{shown(path)}: {config}: {describe(error, fields)}") from error
        except ValueError as error:
            raise UserError(f"{shown(path)}: {config}: {error}") from error
        proofs[config] = proof
    return proofs


def file_stem(table: str) -> str:
    """The file name of a table without its ending: `table5`, `figure3`, `own_scenes`."""
    return f"table{table}" if table.isdecimal() else table


def describe(error: ValidationError, data: Any) -> str:
    """One line for a fault of a validation: row, key, what is wrong; a mistyped key first, with the nearest one."""
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    location = list(first["loc"])
    where = []
    if len(location) >= 2 and location[0] in ("rows", "columns") and isinstance(location[1], int):
        item = data[location[0]][location[1]]
        name = item.get("key") if isinstance(item, dict) else None
        where.append(f"{location[0][:-1]} {name!r}" if name else f"{location[0][:-1]} number {location[1] + 1}")
        location = location[2:]
    where += [".".join(map(str, location))] if location else []
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        inner: dict[str, type[BaseModel]] = {"row": Row, "column": Column}
        model = inner.get(where[0].split()[0], Table) if len(where) > 1 else Table
        message = f"unknown key; {hint(str(location[-1]), model.model_fields)}"
    return ": ".join([*where, message])


def problems(table: Table) -> list[str]:
    """What is wrong with a table beyond its types, each as one line with row and key."""
    found = []
    columns = {column.key: column for column in table.columns}
    for names, kind in ((list(table.columns), "column"), (list(table.rows), "row")):
        keys = [item.key for item in names]
        found += [f"{kind} {key!r}: given twice" for key in sorted({key for key in keys if keys.count(key) > 1})]
    for row in table.rows:
        found += [f"row {row.key!r}: {text}" for text in row_problems(row, columns)]
    return found


def row_problems(row: Row, columns: dict[str, Column]) -> list[str]:
    """What is wrong with the cells of a row."""
    found = [f"paper.{key}: no such column; {hint(key, columns)}" for key in row.paper if key not in columns]
    found += [f"paper.{key}: missing ('-' where the paper prints nothing)" for key in columns if key not in row.paper]
    for key, text in row.paper.items():
        if key in columns:
            found += number_problems(f"paper.{key}", text, columns[key].quantity)
    for key, misprint in row.misprints.items():
        if key not in columns:
            found.append(f"misprints.{key}: no such column; {hint(key, columns)}")
        elif misprint.printed != row.paper.get(key):
            found.append(
                f"misprints.{key}.printed: {misprint.printed!r}, but the paper's cell is {row.paper.get(key)!r}"
            )
        else:
            found += number_problems(f"misprints.{key}.found", misprint.found, columns[key].quantity)
    return found


def number_problems(where: str, text: str, quantity: str) -> list[str]:
    """The complaint about one cell, if it has one."""
    try:
        parse_printed(text, quantity)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []
