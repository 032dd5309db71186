"""make_tables: what it prints, the JSON that others script against, generated pages, and refusals on one line."""

import json
import sys
from pathlib import Path

import pytest

from models.errors import UserError
from tools import make_tables
from tools.tables import entries
from tools.tables import render as pages
from tools.tables.costs import RowCost
from tools.tables.entries import TableEntry, build_entries
from tools.tables.loading import load_table, load_tables
from tools.tables.render import as_markdown, as_text
from tools.tables.results import Record
from tools.tables.schema import ExpectedCost

TABLES = {table.table: table for table in load_tables()}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_tables.py", *arguments])
    return make_tables.main()


def test_table_5_shows_the_paper_beside_ours_and_the_command(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--table", "5") == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "12x12" in line and line.startswith("DW"))
    assert row.split() == ["DW", "12x12", "25M", "24,592,264", "11.5G", "11.487G", "82.1", "-", "cost", "verified"]
    assert "dw_conv_w12: python train_cls.py --config configs/finetune384/dw_conv_tiny_w12.yaml" in printed


def test_json_has_the_fields_of_the_interface(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--table", "table10", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in rows] == ["static_swin", "static_swin_shared", "dw_conv", "dw_conv_channel_shared"]
    row = rows[1]
    assert row.keys() >= {"table", "row", "config", "params", "macs", "paper", "status"}
    assert (row["table"], row["params"], row["status"]) == ("10", 24_274_450, "cost verified")
    assert row["paper"] == {"share_channels": "yes", "share_positions": "yes", "top1": "80.3"}
    assert isinstance(row["macs"], int)


def test_dense_rows_stand_in_the_json_by_task(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--table", "3", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    assert {row["task"] for row in rows} == {"detection", "segmentation"}
    assert rows[0]["paper"]["det_flops"] == "747G"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--table", "14"), "no such table; the nearest valid one is"),
        (("--table", "figure9"), "no such table; the nearest valid one is figure3"),
    ],
)
def test_an_unknown_table_is_refused_on_one_line(monkeypatch, capsys, arguments, message: str) -> None:
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_broken_table_is_refused_on_one_line(monkeypatch, capsys, tmp_path: Path) -> None:
    text = (Path(make_tables.ROOT) / "configs/tables/table6.yaml").read_text(encoding="utf-8")
    (tmp_path / "table6.yaml").write_text(text.replace('params: "29M"', 'params: "29 M"'), encoding="utf-8")
    monkeypatch.setattr(make_tables, "load_tables", lambda: load_tables(tmp_path))
    assert run(monkeypatch, "--table", "6") == 2
    err = capsys.readouterr().err
    assert "table6.yaml: row 'swin_se': paper.params: '29 M' is no number" in err
    assert len(err.splitlines()) == 1


def test_a_table_with_a_broken_config_is_refused_by_name(monkeypatch, capsys, tmp_path: Path) -> None:
    text = (Path(make_tables.ROOT) / "configs/tables/table6.yaml").read_text(encoding="utf-8")
    (tmp_path / "table6.yaml").write_text(text.replace("table6/swin_se.yaml", "table6/swin_sse.yaml"))
    monkeypatch.setattr(make_tables, "load_tables", lambda: load_tables(tmp_path))
    assert run(monkeypatch, "--table", "6") == 2
    assert "swin_sse.yaml: no such config file" in capsys.readouterr().err


def test_check_passes_on_the_checkout(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--check") == 0, capsys.readouterr().err


def page(folder: Path, body: str) -> Path:
    path = folder / "page.md"
    path.write_text(f"before\n<!-- generated: table 6 -->\n{body}<!-- end -->\nafter\n", encoding="utf-8")
    return path


def test_a_page_is_written_once_and_then_checked(tmp_path: Path) -> None:
    path = page(tmp_path, "")
    generators = {"table": lambda name: f"| table {name} |"}
    assert pages.write([path], generators) == [path]
    assert pages.write([path], generators) == []
    assert pages.stale([path], generators) == []
    assert path.read_text().splitlines()[0] == "before"
    assert path.read_text().splitlines()[-1] == "after"


def test_an_edited_page_fails_the_check_with_its_line(monkeypatch, capsys, tmp_path: Path) -> None:
    path = page(tmp_path, "")
    pages.write([path], make_tables.generators())
    path.write_text(path.read_text(encoding="utf-8").replace("81.2", "82.2"), encoding="utf-8")
    monkeypatch.setattr(pages, "pages", lambda: [path])
    assert run(monkeypatch, "--check", "--table", "6") == 1
    wanted = "page.md: line 6 is not what the data gives: '| Swin | cost verified | `configs/ablations/table6/swin_se"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- generated: table 6 -->\n", "has no '<!-- end -->'"),
        ("<!-- generated: tabel 6 -->\n<!-- end -->", "nothing generates 'tabel'; the nearest valid one is table"),
        ("<!-- generated: table6 -->\n<!-- end -->", "or a wrong form"),
    ],
)
def test_a_broken_marker_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        pages.stale([path], {"table": str})


def record(kind: str, top1: float, config: str = "configs/imagenet/swin_tiny.yaml") -> Record:
    return Record(
        config=config,
        task="classification",
        kind=kind,
        metrics={"top1": top1},
        dataset="ImageNet-1K",
        images=50_000,
        checkpoint_sha256=f"{int(top1 * 10):064x}",
        commit="abc",
        seed=0,
        epochs=300,
    )


def test_status_is_derived_from_cost_and_records() -> None:
    table = TABLES["6"]
    row = table.rows[0]
    right, wrong = RowCost(1, 1, "paper", 2, ()), RowCost(1, 1, "paper", 2, ("params: 1 is not 28M",))
    statuses = [
        TableEntry(table, row, "classification", cost, records).status
        for cost, records in [
            (None, ()),
            (RowCost(1, 1, "paper", 0, ()), ()),
            (right, ()),
            (right, (record("evaluated", 81.2),)),
            (right, (record("trained", 81.2),)),
            (wrong, (record("trained", 81.2),)),
        ]
    ]
    assert statuses == ["not run", "not run", "cost verified", "evaluated", "trained", "cost differs"]


def test_runs_count_before_evaluations_and_are_averaged() -> None:
    records = [record("evaluated", 70.0), record("trained", 81.0), record("trained", 82.0)]
    found = build_entries(TABLES["6"], {}, records)[0]
    assert (found.status, found.ours(TABLES["6"].columns[-1])) == ("trained", 81.5)
    assert "81.50" in as_text(TABLES["6"], build_entries(TABLES["6"], {}, records))


def test_a_wrong_cost_is_found_and_fails_the_check(monkeypatch, capsys) -> None:
    proofs = {"configs/imagenet/swin_tiny.yaml": ExpectedCost(params="28,288,355")}
    found = build_entries(TABLES["6"], proofs, [])
    assert found[0].status == "cost differs"
    assert "! swin: params: 28,288,354 is not 28,288,355" in as_text(TABLES["6"], found)
    monkeypatch.setattr(entries, "load_expected_costs", lambda: proofs)
    monkeypatch.setattr(pages, "pages", list)
    assert run(monkeypatch, "--check", "--table", "6") == 1
    assert "table 6, row 'swin': params: 28,288,354 is not 28,288,355" in capsys.readouterr().err


def test_table_1_is_measured_on_the_operators() -> None:
    found = build_entries(TABLES["1"], {}, [])
    assert {entry.status for entry in found} == {"measured"}
    assert found[0].command == "python tools/analyze_operator.py local_attention"
    assert found[0].ours(TABLES["1"].columns[3]) == "per group"
    row = found[0].row.model_copy(update={"operator": "dw_conv"})
    (wrong, *_) = build_entries(TABLES["1"].model_copy(update={"rows": [row]}), {}, [])
    assert wrong.status == "property differs"
    assert "share_positions: measured 'yes' is not '-'" in wrong.wrong


def test_rows_that_share_a_file_train_into_folders_of_their_own() -> None:
    commands = [entry.command for entry in build_entries(TABLES["2"], {}, []) if entry.command]
    shared = [command for command in commands if "configs/comparison.yaml" in command]
    assert shared[0].endswith("model.name=timm:resnet50 output=runs/comparison/resnet50")
    assert len(set(commands)) == len(commands)


def test_a_page_has_status_and_config_beside_the_model_and_a_table_for_each_group() -> None:
    text = as_markdown(TABLES["2"], build_entries(TABLES["2"], {}, []))
    heads = [line for line in text.splitlines() if line.startswith("| model |")]
    groups = [row.group for row in TABLES["2"].rows if row.group]
    assert len(heads) == len(groups) > 3 and all(head.startswith("| model | status | config |") for head in heads)
    assert [line.strip("*") for line in text.splitlines() if line.startswith("*")] == groups
    line = next(line for line in text.splitlines() if line.startswith("| ResNet-50 |"))
    assert line.split(" | ")[1:4] == ["cost verified", "`configs/comparison.yaml model.name=timm:resnet50`", "224^2"]


def test_misprints_show_both_values() -> None:
    table = load_table(make_tables.ROOT / "configs/tables/table13.yaml")
    text = as_markdown(TABLES["11"], build_entries(TABLES["11"], {}, []))
    assert "15.4G*" in text
    assert "printed 15.4G, found 15.53G" in text
    assert "*" not in as_text(table, build_entries(table, {}, []))
