"""The paper's tables as data: columns and rows, with cells as they were printed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import hint
from tools.tables.printed import QUANTITIES, Printed, parse_printed


class Strict(BaseModel):
    """No unknown keys, no conversion from one type to another, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
