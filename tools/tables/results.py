"""What was measured for the paper's rows: records that a tool copied from runs, each with its provenance."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from engine.config import read_mapping
from engine.files import write_atomic
from models.errors import UserError
from tools.tables.schema import RESULTS, TABLES, Strict, Task, describe, shown

HEADER = """\
# Written by tools/record_result.py from the records of runs. Not edited by hand.
"""


class Record(Strict):
    """One measurement of a row's model: a run of its config ("trained") or weights from elsewhere ("evaluated")."""

    config: str
    task: Task
    kind: Literal["trained", "evaluated"]
    metrics: dict[str, float]
    dataset: str
    images: int
    checkpoint_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    commit: str
    seed: int | None
    epochs: int | None
    precision: str | None = None


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
    content: dict[str, object] = {"records": [other.model_dump() for other in [*records, record]]}
    text = HEADER + yaml.safe_dump(content, sort_keys=False, width=118)
    write_atomic(folder / RESULTS, text.encode())
    return True


def of_row(records: Iterable[Record], config: str | None, task: Task) -> list[Record]:
    """The records that count for a row: runs of its config where there are any, else evaluations of other weights."""
    found = [record for record in records if record.config == config and record.task == task]
    return [record for record in found if record.kind == "trained"] or found


def measured_value(records: list[Record], quantity: str) -> float | None:
    """Mean over the records that have this quantity."""
    values = [record.metrics[quantity] for record in records if quantity in record.metrics]
    return mean(values) if values else None
