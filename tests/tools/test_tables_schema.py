"""The loader of the paper's tables: what it accepts, and the line with which it refuses a broken file."""

from pathlib import Path

import pytest

from models.errors import UserError
from tools.tables.loading import load_expected_costs, load_table, load_tables
from tools.tables.printed import parse_printed

GOOD = """
table: "6"
title: Cooperate with SE
source: section 3.4
columns:
- {key: params, label: "#param.", quantity: params}
- {key: top1, label: Acc., quantity: top1}
rows:
- key: swin
  label: Swin
  config: configs/imagenet/swin_tiny.yaml
  paper: {params: "28M", top1: "81.3"}
- key: dw_conv
  label: DW
  paper: {params: "24M", top1: "-"}
"""


def write(folder: Path, text: str, name: str = "table6.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_table_loads(tmp_path: Path) -> None:
    table = load_table(write(tmp_path, GOOD))
    assert [row.key for row in table.rows] == ["swin", "dw_conv"]
    printed = table.printed(table.rows[0], table.columns[0])
    assert printed is not None
    assert printed.value == 28_000_000
    assert table.printed(table.rows[1], table.columns[1]) is None


BROKEN = {
    "mistyped key": (
        "label: Swin\n",
        "lable: Swin\n",
        "row 'swin'.*lable: unknown key; the nearest valid one is label",
    ),
    "key of the table": ("source:", "sauce:", "sauce: unknown key; the nearest valid one is source"),
    "number without unit": ('params: "28M"', 'params: "28k"', r"row 'swin'.*paper\.params: '28k' is no number"),
    "wrong unit": ('params: "28M"', 'params: "28G"', r"row 'swin'.*paper\.params: '28G' has the unit G"),
    "no percentage": ('top1: "81.3"', 'top1: "813"', r"row 'swin'.*paper\.top1: '813' is no percentage"),
    "number, not text": ('top1: "81.3"', "top1: 81.3", r"row 'swin'.*paper\.top1: Input should be a valid string"),
    "missing cell": ('{params: "24M", top1: "-"}', '{params: "24M"}', r"row 'dw_conv': paper\.top1: missing"),
    "other column": ('top1: "-"', 'top1: "-", top: "1"', r"row 'dw_conv': paper\.top: no such column; .*top1"),
    "row twice": ("key: dw_conv", "key: swin", "row 'swin': given twice"),
    "key twice": ("  label: DW\n", "  label: DW\n  label: D\n", "line 15: .*'label' stands twice"),
    "quantity": (
        "quantity: top1",
        "quantity: top11",
        "column 'top1'.*'top11' is unknown; the nearest valid one is top1",
    ),
    "no YAML": ("columns:", "columns: [", "not valid YAML"),
    "no rows": ("rows:", "notes:", "rows: Field required|notes"),
    "table number": ('table: "6"', 'table: "six"', "table: String should match pattern"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_refused_by_file_row_and_key(tmp_path: Path, case: str) -> None:
    old, new, message = BROKEN[case]
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        load_table(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_misprint_must_quote_the_cell(tmp_path: Path) -> None:
    row = '  misprints: {params: {printed: "27M", found: "28.3M", reason: rounding}}\n'
    path = write(tmp_path, GOOD.replace("- key: dw_conv", row + "- key: dw_conv"))
    with pytest.raises(
        UserError, match=r"row 'swin': misprints\.params\.printed: '27M', but the paper's cell is '28M'"
    ):
        load_table(path)


def test_a_misprint_changes_what_is_expected_but_not_what_is_printed(tmp_path: Path) -> None:
    row = '  misprints: {params: {printed: "28M", found: "59.88M", reason: other model}}\n'
    table = load_table(write(tmp_path, GOOD.replace("- key: dw_conv", row + "- key: dw_conv")))
    assert table.printed(table.rows[0], table.columns[0]).text == "28M"
    assert table.expected(table.rows[0], table.columns[0]).text == "59.88M"


def test_a_table_in_the_wrong_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "table9.yaml")
    with pytest.raises(UserError, match=r"'6' belongs in table6\.yaml"):
        load_tables(tmp_path)


def test_a_broken_proof_is_refused_by_config(tmp_path: Path) -> None:
    write(tmp_path, 'a.yaml: {params: "28 M"}', "expected_costs.yaml")
    with pytest.raises(UserError, match=r"expected_costs\.yaml: a\.yaml: '28 M' is no number"):
        load_expected_costs(tmp_path)
    write(tmp_path, 'a.yaml: {param: "28M"}', "expected_costs.yaml")
    with pytest.raises(UserError, match=r"expected_costs\.yaml: a\.yaml: param"):
        load_expected_costs(tmp_path)


@pytest.mark.parametrize(
    ("text", "quantity", "value", "agrees"),
    [
        ("28M", "params", 28_499_999, True),
        ("28M", "params", 28_500_000, False),
        ("28M", "params", 27_500_000, True),
        ("26,132,824", "params", 26_132_824, True),
        ("26,132,824", "params", 26_132_825, False),
        ("4.5G", "flops", 4.549e9, True),
        ("4.5G", "flops", 4.55e9, False),
        ("4.538G", "flops", 4.5384e9, True),
        ("3.797Gi", "flops", 3.797 * 2**30, True),
        ("3.797Gi", "flops", 3.797e9, False),
        ("1128.3", "throughput", 1128.34, True),
    ],
)
def test_a_value_agrees_by_rounding_to_the_printed_digit(text: str, quantity: str, value: float, agrees: bool) -> None:
    printed = parse_printed(text, quantity)
    assert printed is not None
    assert printed.agrees(value) is agrees


def test_units_of_two_to_the_thirty_where_the_row_says_so() -> None:
    printed = parse_printed("4.0G", "flops", flops_unit="Gi")
    assert printed is not None
    assert printed.agrees(4.0 * 2**30)
    assert not printed.agrees(4.0e9)
