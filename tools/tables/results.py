"""What was measured for the paper's rows: records that a tool copied from runs, each with its provenance."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from engine.config import read_mapping
from engine.files import write_atomic
from models.errors import UserError
from tools.tables.loading import RESULTS, TABLES, describe, shown
from tools.tables.schema import Strict, Task

HEADER = """\
# Written by tools/record_result.py from the records of runs. Not edited by hand.
"""


Kind = Literal["trained", "evaluated", "timed"]


class Record(Strict):
    """One measurement of a row's model: a run of its config, an evaluation of weights, or its speed on a device."""

    config: str
    task: Task
    kind: Kind
    metrics: dict[str, float]
    dataset: str | None = None
    images: int | None = None
    checkpoint_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    commit: str
    seed: int | None = None
    epochs: int | None = None
    precision: str | None = None
    device: str | None = None
    """Of a speed, with precision and batch."""
    release: str | None = None
    """The file, where the weights are ones that the authors or Swin have released."""

    @model_validator(mode="after")
    def _names_what_it_is_of(self) -> "Record":
        missing = ("device",) if self.kind == "timed" else ("dataset", "images", "checkpoint_sha256")
        for key in missing:
            if getattr(self, key) is None:
                raise ValueError(f"{key}: missing in a record that is {self.kind!r}")
        return self


def load_records(folder: Path = TABLES) -> list[Record]:
    """All records of a folder.

    Raises:
        UserError: the file, the number of the record and the key that is wrong.
    """
    path = folder / RESULTS
    data = read_mapping(path).get("records", [])
    if not isinstance(data, list):
        raise UserError(f"{shown(path)}: records: a list is wanted")
    records = []
    for number, fields in enumerate(data, start=1):
        try:
            record = Record.model_validate(fields)
        except ValidationError as error:
            raise UserError(f"{shown(path)}: record {number}: {describe(error, fields)}") from None
        records.append(record)
    return records


def add_record(record: Record, folder: Path = TABLES) -> bool:
    """Append a record; False where the same weights are there already with the same numbers.

    Raises:
        UserError: the file is broken.
        OSError: it cannot be written.
    """
    records = load_records(folder)
    if record in records:
        return False
    content: dict[str, object] = {"records": [other.model_dump(exclude_none=True) for other in [*records, record]]}
    text = HEADER + yaml.safe_dump(content, sort_keys=False, width=118)
    write_atomic(folder / RESULTS, text.encode())
    return True


def of_row(records: Iterable[Record], config: str | None, task: Task) -> list[Record]:
    """The records of a row."""
    return [record for record in records if record.config == config and record.task == task]


def counting(records: list[Record], quantity: str) -> list[Record]:
    """The records that a cell shows: of weights trained here where there are any, else of weights from elsewhere; of
    speeds the last one, as a mean over machines would be none's.
    """
    found = [record for record in records if quantity in record.metrics]
    if quantity == "throughput":
        return found[-1:]
    trained = {record.checkpoint_sha256 for record in records if record.kind == "trained"}
    return [record for record in found if record.checkpoint_sha256 in trained] or found


def measured_value(records: list[Record], quantity: str) -> float | None:
    """Mean over the records that count for this quantity; one for each weights, the last."""
    values = {record.checkpoint_sha256: record.metrics[quantity] for record in counting(records, quantity)}
    return mean(values.values()) if values else None
