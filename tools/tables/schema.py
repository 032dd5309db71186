"""The paper's tables as data: columns, rows, and numbers as they were printed."""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.config import read_mapping
from models.errors import UserError, hint


class Strict(BaseModel):
    """No unknown keys, no conversion from one type to another, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


NOT_PRINTED = "-"
UNITS = {"": Decimal(1), "M": Decimal(10) ** 6, "G": Decimal(10) ** 9, "Gi": Decimal(2) ** 30}
NUMBER = re.compile(r"(?P<number>\d[\d,]*(?:\.\d+)?)(?P<unit>Gi|G|M|)")
PERCENT = ("top1", "top5", "real", "box_ap", "box_ap50", "box_ap75", "mask_ap", "miou")
COSTS = ("params", "flops")
WORDS = ("text", "property")  # properties are words that can be measured
QUANTITIES = (*COSTS, *PERCENT, "throughput", *WORDS)


@dataclass(frozen=True)
class Printed:
    """A printed number: its text, its value in plain units, the unit and the number of decimals that it shows."""

    text: str
    value: Decimal
    unit: Decimal
    decimals: int

    def agrees(self, value: float) -> bool:
        """Whether `value` (plain units) prints as this text, by rounding half up to the printed digit."""
        step = Decimal(1).scaleb(-self.decimals)
        rounded = (Decimal(str(value)) / self.unit).quantize(step, ROUND_HALF_UP)
        return rounded * self.unit == self.value


def parse_printed(text: str, quantity: str, flops_unit: str = "G") -> Printed | None:
    """Parse a cell of the paper; None for a cell without a number.

    Args:
        text: as printed, for example "28M", "4.5G", "81.3", "26,132,824" or "-".
        quantity: one of QUANTITIES.
        flops_unit: "Gi" where the paper prints "G" but counts in units of 2^30.

    Raises:
        ValueError: the text is no number of that quantity.
    """
    if quantity in WORDS or text == NOT_PRINTED:
        return None
    match = NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number such as '28M', '4.5G' or '81.3' (a cell without a number is '-')")
    unit = match["unit"]
    allowed = {"params": ("", "M"), "flops": ("G", "Gi")}.get(quantity, ("",))
    if unit not in allowed:
        wanted = " or ".join(name or "none" for name in allowed)
        raise ValueError(f"{text!r} has the unit {unit or 'none'}; {quantity} takes {wanted}")
    number = Decimal(match["number"].replace(",", ""))
    if quantity in PERCENT and not 0 <= number <= 100:
        raise ValueError(f"{text!r} is no percentage")
    factor = UNITS[flops_unit if unit == "G" else unit]
    exponent = number.as_tuple().exponent
    return Printed(text, number * factor, factor, -int(exponent))


ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "configs" / "tables"
EXPECTED_COSTS = "expected_costs.yaml"
RESULTS = "results.yaml"
QUESTIONS = "questions.yaml"
Task = Literal["classification", "detection", "segmentation"]
PAPERS_DATA: dict[Task, str] = {
    "classification": "ImageNet-1K's validation set",
    "detection": "COCO val2017",
    "segmentation": "ADE20K's validation set",
}
PAPERS_IMAGES: dict[Task, int] = {"classification": 50_000, "detection": 5_000, "segmentation": 2_000}


class Column(Strict):
    """A column of the printed table: the key used in rows, the printed heading, what it holds and for which task."""

    key: str
    label: str
    quantity: str
    task: Task = "classification"

    @model_validator(mode="after")
    def known_quantity(self) -> "Column":
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity {self.quantity!r} is unknown; {hint(self.quantity, QUANTITIES)}")
        return self


class Misprint(Strict):
    """A cell of the paper that no build reproduces: what it prints, what was found, and why we think so."""

    printed: str
    found: str
    reason: str


class Row(Strict):
    """A row of the printed table: `paper` holds every column's text as printed, "-" where nothing is printed.

    `config` is what follows `--config` on the command line (a path and overrides), one text or one for each task.
    `operator` is a layer of tools/analyze_operator.py, which measures the columns that are properties. A row of
    `source: ours` is not in the paper: its `paper` cells may be left out, and it stands after those that are.
    """

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    label: str
    group: str | None = None
    config: str | dict[Task, str] = Field(default_factory=dict)
    operator: str | None = None
    source: Literal["paper", "ours"] = "paper"
    paper: dict[str, str] = Field(default_factory=dict)
    misprints: dict[str, Misprint] = Field(default_factory=dict)
    flops_unit: Literal["G", "Gi"] = "G"

    def config_of(self, task: Task) -> str | None:
        """The config of a task, None where the row has none."""
        if isinstance(self.config, str):
            return self.config if task == "classification" else None
        return self.config.get(task)


class Table(Strict):
    """One table or figure of the paper, or `own_NAME`, a table whose rows are all ours."""

    table: str = Field(pattern=r"^((figure)?\d+|own_[a-z0-9_]+)$")
    title: str
    source: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = Field(default_factory=list)
    data: dict[Task, str] = Field(default_factory=lambda: dict(PAPERS_DATA))
    images: dict[Task, int] = Field(default_factory=lambda: dict(PAPERS_IMAGES))
    """By task, the data set and how many images of it a measurement for this table is on; an own table's must be the
    name that a run gives its data."""
    real_images: int = 46_837
    """How many of ImageNet's 50,000 have a label by ReaL."""

    @model_validator(mode="after")
    def _ours_come_last(self) -> "Table":
        sources = [row.source for row in self.rows]
        if sources != sorted(sources, reverse=True):
            raise ValueError("rows: those of `source: ours` stand after the paper's")
        if self.is_own and "paper" in sources:
            raise ValueError(f"rows: every row of {self.table} is of `source: ours`")
        for task in self.tasks() if self.is_own else ():
            if task not in self.data or task not in self.images or "data" not in self.model_fields_set:
                raise ValueError(f"data, images: missing for {task}, which the columns of {self.table} are of")
        for row in self.rows:
            if row.source == "ours":
                row.paper.update({column.key: "-" for column in self.columns if column.key not in row.paper})
        return self

    @property
    def is_own(self) -> bool:
        """Whether the table is none of the paper's."""
        return self.table.startswith("own_")

    def heading_before(self, row: Row) -> str | None:
        """What stands on a line of its own before a row: its group, or that what follows is not in the paper."""
        ours = [each.key for each in self.rows if each.source == "ours"]
        return "not in the paper" if ours[:1] == [row.key] and not self.is_own else row.group

    def tasks(self) -> list[Task]:
        """The tasks of the columns, in their order."""
        return list(dict.fromkeys(column.task for column in self.columns))

    def printed(self, row: Row, column: Column) -> Printed | None:
        """The number of a cell as the paper prints it."""
        return parse_printed(row.paper[column.key], column.quantity, row.flops_unit)

    def expected(self, row: Row, column: Column) -> Printed | None:
        """The number that a correct build gives: the printed one, or what was found where it is a known misprint."""
        if column.key in row.misprints:
            return parse_printed(row.misprints[column.key].found, column.quantity, row.flops_unit)
        return self.printed(row, column)


class ExpectedCost(Strict):
    """What a config must cost: parameters and FLOPs with as many digits as are known, and by which counter."""

    params: str | None = None
    flops: str | None = None
    counter: Literal["paper", "torch"] = "paper"

    def expected(self) -> dict[str, Printed]:
        """The known costs, by quantity."""
        texts = {"params": self.params, "flops": self.flops}
        parsed = {quantity: parse_printed(text, quantity) for quantity, text in texts.items() if text is not None}
        return {quantity: number for quantity, number in parsed.items() if number is not None}


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
