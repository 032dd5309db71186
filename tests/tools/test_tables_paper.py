"""The paper's numbers in configs/tables: none is edited, and they are what the paper prints."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from reference_data import REFERENCE

from tools.tables.loading import load_expected_costs, load_tables
from tools.tables.schema import Row, Table

ALL = load_tables()
TABLES = {table.table: table for table in ALL if not table.is_own}
# Digest of every table's cells as transcribed. A change here is a change of what we say that the paper printed.
DIGESTS = {
    "1": "2bcf311a30ae5a40",
    "2": "93e0ecb739787f00",
    "3": "2c66a72ec9b91b56",
    "4": "2360f768bd5613f6",
    "5": "3c03bef9b639d161",
    "6": "9e901ee8dc9ebdd7",
    "8": "f75d98d6ce23d2c7",
    "9": "f597f061e2b31cc2",
    "10": "3d5d913907567d3e",
    "11": "9ad07794e86a2f0f",
    "12": "70f46c6f68ead298",
    "13": "254d9de97959a813",
    "figure3": "a9b48c56d344cef4",
}


def digest(table: Table) -> str:
    cells = [[row.key, row.label, row.paper] for row in table.rows if row.source == "paper"]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]


def test_every_table_of_the_paper_is_there() -> None:
    assert list(TABLES) == ["1", "2", "3", "4", "5", "6", "8", "9", "10", "11", "12", "13", "figure3"]


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_numbers_are_never_edited(name: str) -> None:
    assert digest(TABLES[name]) == DIGESTS[name]


def test_the_same_row_prints_the_same_numbers_in_all_tables() -> None:
    seen: dict[tuple[str, str], str] = {}
    for table in TABLES.values():
        for row in table.rows:
            for column in table.columns:
                config = row.config_of(column.task)
                if config and column.quantity != "text" and row.paper[column.key] != "-":
                    key = (config, column.quantity)
                    assert seen.setdefault(key, row.paper[column.key]) == row.paper[column.key], (table.table, row.key)


def test_every_proof_belongs_to_a_row() -> None:
    configs = {row.config_of(task) for table in ALL for task in table.tasks() for row in table.rows}
    assert set(load_expected_costs()) <= configs


def test_proof_and_printed_number_agree_where_no_misprint_is_listed() -> None:
    proofs = load_expected_costs()
    for table in TABLES.values():
        for row in table.rows:
            for column in table.columns:
                proof = proofs.get(row.config_of(column.task) or "")
                expected = table.expected(row, column)
                if proof is None or expected is None or column.quantity not in ("params", "flops"):
                    continue
                text = getattr(proof, column.quantity)
                if text is not None:
                    assert rounds_to(text, expected.text, row), (table.table, row.key, column.key)


def rounds_to(proof: str, printed: str, row: Row) -> bool:
    unit = r"(Gi|G|M|)$"
    number = float(re.sub(unit, "", proof).replace(",", ""))
    value = number / 1e6 if proof[-1].isdigit() else number
    wanted = re.sub(unit, "", printed)
    decimals = len(wanted.partition(".")[2])
    return abs(value - float(wanted)) <= 0.5001 * 10**-decimals


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("1", "figure3", "9", "10")])
def test_the_rows_stand_in_the_text_of_the_paper(name: str) -> None:
    text = (REFERENCE / "paper_rows.txt").read_text(encoding="utf-8")
    for row in TABLES[name].rows:
        if row.source == "ours":
            continue
        cells = [cell for column, cell in row.paper.items() if column not in ("dynamic", "se")]
        cells = [cell.replace("224^2", "224 ²").replace("384^2", "384 ²").replace("x", "×") for cell in cells]
        assert " ".join(cells) in text, f"{row.key}: {cells}"


def test_no_row_names_a_config_outside_the_checkout() -> None:
    for table in TABLES.values():
        for row in table.rows:
            for task in table.tasks():
                config = row.config_of(task)
                assert config is None or not Path(config.split()[0]).is_absolute()
