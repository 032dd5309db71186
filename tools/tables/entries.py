"""The rows of all tables: what each costs, what was measured, its status and its command."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.errors import UserError
from models.theory.catalog import Setting, find_layer
from models.theory.table import measure_layer
from models.theory.table import row as as_row
from tools.tables.costs import RowCost, cost_of
from tools.tables.loading import load_expected_costs
from tools.tables.printed import COSTS, NOT_PRINTED
from tools.tables.results import Record, load_records, measured_value, of_row
from tools.tables.schema import Column, ExpectedCost, Row, Table, Task

SMALL = Setting(channels=4)  # two channels for each head are enough to tell all cells apart


@cache
def measured_properties(operator: str) -> dict[str, str]:
    """The cells of an operator's row, from its connection matrix at a small size.

    Raises:
        UserError: there is no such operator.
    """
    try:
        layer = find_layer(operator, {})
    except ValueError as error:
        raise UserError(f"operator: {error}") from None
    return as_row(measure_layer(layer, SMALL).properties)


RELEASED = "released weights"
NOT_RUN, COST_VERIFIED, COST_WRONG = "not run", "cost verified", "cost differs"
COST_MISPRINTED = "cost known, printed otherwise"
MEASURED, PROPERTY_WRONG = "measured", "property differs"
COMMANDS: dict[Task, str] = {
    "classification": "python train_cls.py --config {config}",
    "detection": "python detection/train.py {config}",
    "segmentation": "python segmentation/train.py {config}",
}


@dataclass(frozen=True)
class TableEntry:
    """One row of one table for one task."""

    table: Table
    row: Row
    task: Task
    cost: RowCost | None
    records: tuple[Record, ...]
    properties: dict[str, str] | None = None

    @property
    def config(self) -> str | None:
        """What follows `--config`, None for a row without a config."""
        return self.row.config_of(self.task)

    @property
    def status(self) -> str:
        """Derived, never stored: the most that was shown for this row."""
        if self.properties is not None:
            return PROPERTY_WRONG if self.wrong else MEASURED
        if self.wrong:
            return COST_WRONG
        kinds = {record.kind for record in self.records}
        if "trained" in kinds:
            return "trained"
        if "evaluated" in kinds:
            return RELEASED if any(record.release for record in self.records) else "evaluated"
        if self.cost is None or not self.cost.checked:
            return NOT_RUN
        quantities = {column.key: column.quantity for column in self.table.columns}
        return COST_MISPRINTED if any(quantities[key] in COSTS for key in self.row.misprints) else COST_VERIFIED

    @property
    def wrong(self) -> tuple[str, ...]:
        """What contradicts the paper, one text each."""
        if self.properties is not None:
            paper, ours = self.row.paper, self.properties
            return tuple(
                f"{key}: measured {ours[key]!r} is not {paper[key]!r}" for key in paper if ours[key] != paper[key]
            )
        return self.cost.wrong if self.cost is not None else ()

    @property
    def command(self) -> str | None:
        """What would train the row, or measure its operator. Rows that share a config file get folders of their own."""
        if self.row.operator is not None:
            return f"python tools/analyze_operator.py {self.row.operator}"
        if self.config is None:
            return None
        command = COMMANDS[self.task].format(config=self.config)
        path, *overrides = self.config.split()
        return f"{command} output=runs/{Path(path).stem}/{self.row.key}" if overrides else command

    def ours(self, column: Column) -> float | str | None:
        """Our value for a column: counted for costs, measured for the rest."""
        if column.task != self.task:
            return None
        if self.properties is not None:
            return self.properties[column.key]
        if column.quantity in COSTS and self.cost is not None:
            return self.cost.params if column.quantity == "params" else self.cost.macs
        return measured_value(list(self.records), column.quantity)

    def as_json(self) -> dict[str, object]:
        """The entry as `make_tables --json` prints it."""
        columns = [column for column in self.table.columns if column.task == self.task]
        measured = {column.key: self.ours(column) for column in columns if column.quantity not in (*COSTS, "text")}
        return {
            "table": self.table.table,
            "row": self.row.key,
            "label": self.row.label,
            "task": self.task,
            "config": self.config,
            "params": self.cost.params if self.cost else None,
            "macs": self.cost.macs if self.cost else None,
            "counter": self.cost.counter if self.cost else None,
            "paper": {column.key: self.row.paper[column.key] for column in columns},
            "misprints": {key: value.model_dump() for key, value in self.row.misprints.items()},
            "measured": {key: value for key, value in measured.items() if value is not None},
            "records": [record.model_dump() for record in self.records],
            "status": self.status,
            "command": self.command,
        }


def paper_prints(tables: list[Table], config: str, task: Task, quantity: str) -> str:
    """What the paper prints for a config, in the first table that has the cell; "-" where none has it."""
    for table in tables:
        for column in table.columns:
            for row in table.rows:
                if (column.task, column.quantity, row.config_of(task)) == (task, quantity, config):
                    return row.paper[column.key]
    return NOT_PRINTED


def build_entries(table: Table, proofs: dict[str, ExpectedCost], records: list[Record]) -> list[TableEntry]:
    """All entries of a table: each row, for each task that the table has columns of.

    Raises:
        UserError: a config of the table cannot be used.
    """
    entries = []
    for row in table.rows:
        properties = measured_properties(row.operator) if row.operator is not None else None
        for task in table.tasks():
            own = tuple(of_row(records, row.config_of(task), task))
            entries.append(TableEntry(table, row, task, cost_of(table, row, task, proofs), own, properties))
    return entries


def load_entries(tables: list[Table]) -> dict[str, list[TableEntry]]:
    """Entries of several tables by table, with the proofs and records of the checkout."""
    proofs, records = load_expected_costs(), load_records()
    return {table.table: build_entries(table, proofs, records) for table in tables}
