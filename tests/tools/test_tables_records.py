"""Measured numbers: copied by the tool from a run's own record, and refused when they are not what they say."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from whole_records import eval_result, run_result

from engine.config import to_dict
from engine.weights import file_hash
from models.errors import UserError
from tools import record_result
from tools.tables.costs import row_config
from tools.tables.entries import build_entries
from tools.tables.loading import TABLES, load_table
from tools.tables.recording import config_of_run, row_content
from tools.tables.render import cells, footnotes
from tools.tables.results import Record, load_records, measured_value, of_row
from tools.tables.schema import Table

CONFIG = "configs/ablations/table6/dw_conv_se.yaml"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "results.yaml").write_text("records: []\n", encoding="utf-8")
    monkeypatch.setattr(record_result.add_record, "__defaults__", (folder,))
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder as the engine leaves it, of a row's config with another seed and data root."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = to_dict(row_config(f"{CONFIG} train.seed=3 data.root=/data/imagenet train.precision=fp32"))
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "last.safetensors").write_bytes(b"weights")
    change(folder / "result.json")
    return folder


def change(path: Path, **fields: object) -> None:
    result = run_result(
        **{"model": "dw_conv_tiny", "dataset": "ImageNet-1K", "top1": 81.7, "top5": 95.6, "eval_images": 50_000},
        **{"labels": "original", "epochs": 300, "seed": 3, "commit": "c0ffee"},
        checkpoint_sha256=file_hash(path.parent / "last.safetensors"),
    )
    path.write_text(json.dumps(result | fields, indent=2), encoding="utf-8")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["record_result.py", *arguments])
    return record_result.main()


def refused(monkeypatch, capsys, *arguments: str) -> str:
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def test_a_run_is_recorded_once_with_its_provenance(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    assert run(monkeypatch, str(finished)) == 0
    assert run(monkeypatch, str(finished)) == 0
    assert "known already" in capsys.readouterr().out
    (record,) = load_records(tables)
    assert (record.config, record.kind, record.seed, record.commit) == (CONFIG, "trained", 3, "c0ffee")
    assert record.metrics == {"top1": 81.7, "top5": 95.6}
    assert record.checkpoint_sha256 == file_hash(finished / "last.safetensors")


def test_a_dry_run_shows_the_record_and_writes_nothing(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    before = {path: path.read_bytes() for path in tables.rglob("*") if path.is_file()}
    assert run(monkeypatch, str(finished), "--dry-run") == 0
    said = capsys.readouterr().out
    assert "kind: trained" in said and "top1: " in said and "results.yaml; nothing is written" in said
    assert {path: path.read_bytes() for path in tables.rglob("*") if path.is_file()} == before


def test_weights_that_are_not_the_runs_are_refused(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    (finished / "last.safetensors").write_bytes(b"other weights")
    err = refused(monkeypatch, capsys, str(finished))
    assert "last.safetensors: not the weights whose hash" in err
    assert load_records(tables) == []


def test_another_recipe_is_refused_by_its_key(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    path = finished / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 300", "epochs: 30"), encoding="utf-8")
    err = refused(monkeypatch, capsys, str(finished))
    assert f"no row has this config: train.epochs is 30 in the run and 300 in {CONFIG}, the nearest" in err


def test_the_nearest_row_has_the_fewest_other_keys(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    """Neither the first row nor the first that has the model: the fine-tuning of Table 5, but for two keys."""
    config = to_dict(row_config("configs/finetune384/dw_conv_tiny_w12.yaml train.epochs=7 train.weight_decay=0.5"))
    (finished / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    err = refused(monkeypatch, capsys, str(finished))
    assert "train.epochs is 7 in the run and 30 in configs/finetune384/dw_conv_tiny_w12.yaml, the nearest" in err
    assert "(2 keys differ, next train.weight_decay)" in err


def test_another_data_set_is_refused(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    change(finished / "result.json", eval_images=10_000, dataset="CIFAR-10")
    assert "CIFAR-10: 10000 images were evaluated" in refused(monkeypatch, capsys, str(finished))


def test_a_broken_record_is_refused_by_file_and_field(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    del result["seed"]
    (finished / "result.json").write_text(json.dumps(result))
    assert "result.json: seed: missing" in refused(monkeypatch, capsys, str(finished))
    (finished / "result.json").write_text("{")
    assert "result.json: no JSON" in refused(monkeypatch, capsys, str(finished))
    assert "no run folder" in refused(monkeypatch, capsys, str(finished / "nothing"))


def test_an_evaluation_of_other_weights_is_recorded_as_such(monkeypatch, tables: Path, tmp_path: Path) -> None:
    line = {
        "model": "swin_tiny",
        "dataset": "ImageNet-1K",
        "images": 46_837,
        "labels": "real",
        "top1": 86.6,
        "top5": 97.0,
    }
    path = tmp_path / "eval.txt"
    path.write_text(
        "a line of the log\n" + json.dumps(eval_result(**line, checkpoint_sha256="f" * 64)) + "\n", encoding="utf-8"
    )
    assert run(monkeypatch, "--evaluation", str(path), "--config", "configs/imagenet/swin_tiny.yaml") == 0
    (record,) = load_records(tables)
    assert (record.kind, record.metrics, record.seed) == ("evaluated", {"real": 86.6}, None)


def test_an_evaluation_of_another_model_is_refused(monkeypatch, capsys, tables: Path, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(eval_result(model="swin_base")), encoding="utf-8")
    err = refused(monkeypatch, capsys, "--evaluation", str(path), "--config", "configs/imagenet/swin_tiny.yaml")
    assert "model: 'swin_base', but configs/imagenet/swin_tiny.yaml is 'swin_tiny'" in err
    err = refused(monkeypatch, capsys, "--evaluation", str(path), "--config", "configs/imagenet/swin_tinny.yaml")
    assert "no row has it; the nearest valid one is configs/imagenet/swin_tiny.yaml" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model.name": "swin_tiny", "data.crop_pct": 1},
            "evaluated with data.crop_pct: 1, and {} has its default",
        ),
        ({"model.name": "swin_tiny", "model.se": True}, "evaluated with model.se: True, and {} has its default"),
        ({}, "evaluated with model.name: its default, and {} has swin_tiny"),
        (None, "settings: missing, it is of before December 2026; evaluate the weights again"),
    ],
)
def test_an_evaluation_by_other_settings_is_refused(
    monkeypatch, capsys, tables: Path, tmp_path: Path, settings: dict | None, message: str
) -> None:
    path, config = tmp_path / "eval.json", "configs/imagenet/swin_tiny.yaml"
    path.write_text(json.dumps(eval_result(images=50_000, settings=settings)), encoding="utf-8")
    assert message.format(config) in refused(monkeypatch, capsys, "--evaluation", str(path), "--config", config)


def test_a_run_that_starts_from_weights_is_no_run_from_scratch() -> None:
    scratch, tuned = "configs/imagenet/dw_conv_tiny.yaml", "configs/finetune384/dw_conv_tiny_w7.yaml"
    for config in (scratch, tuned):
        content = row_content(config, "classification")
        start = content["train"]["init_checkpoint"]
        for path in ("elsewhere/w.pth", None):
            run = {**content, "train": {**content["train"], "init_checkpoint": path}}
            if (path is None) == (start is None):
                assert config_of_run(run, "classification", Path("x")) == config
            else:
                with pytest.raises(UserError, match=r"no row has this config: train\.init_checkpoint is (True|False)"):
                    config_of_run(run, "classification", Path("x"))


def test_a_record_with_an_unknown_key_is_refused(tables: Path) -> None:
    (tables / "results.yaml").write_text("records: [{confg: x}]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"record 1: confg"):
        load_records(tables)


def record(kind: str, sha: str, **metrics: float) -> Record:
    return Record(
        config="c", task="classification", kind=kind, metrics=metrics, dataset="d", images=1,
        checkpoint_sha256=sha * 64, commit="c0ffee",
    )  # fmt: skip


def test_a_record_of_one_kind_leaves_those_of_another_in_their_cells() -> None:
    released = [record("evaluated", "a", top1=81.0, top5=95.0), record("evaluated", "a", real=86.0)]
    trained = [record("trained", "b", top1=79.0), record("trained", "c", top1=81.0)]
    records = of_row([*released, *trained], "c", "classification")
    assert [measured_value(records, key) for key in ("top1", "top5", "real")] == [80.0, 95.0, 86.0]
    records.append(record("evaluated", "b", real=85.0))  # ReaL labels of the weights trained here
    assert measured_value(records, "real") == 85.0
    records.append(record("evaluated", "b", real=85.5))  # evaluated again: the last counts, not the mean
    assert measured_value(records, "real") == 85.5


@pytest.mark.parametrize("labels,images,message", [
    ("real", 50_000, "50000 images were evaluated; the rows of table 2 are on the 46837 of"),
    ("original", 46_837, "46837 images were evaluated; the rows of table 2 are on the 50000 of"),
])  # fmt: skip
def test_a_part_of_the_validation_set_is_refused(
    monkeypatch, capsys, tables: Path, tmp_path: Path, labels: str, images: int, message: str
) -> None:
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(eval_result(model="swin_tiny", labels=labels, images=images)), encoding="utf-8")
    err = refused(monkeypatch, capsys, "--evaluation", str(path), "--config", "configs/imagenet/swin_tiny.yaml")
    assert message in err and load_records(tables) == []


def speed_report(path: Path, mode: str = "inference", **row: object) -> Path:
    machine = {"processor": "Some CPU", "threads": 2, "device": "cpu"}
    work = {"mode": mode, "dtype": "fp32", "batch": 8, "img_size": 224, "device": "cpu"}
    rows = [{"model": "swin_tiny+fuse", "images_per_second": 24.5} | row, {"model": "dw_conv_tiny", "error": "memory"}]
    path.write_text(
        json.dumps({"machine": machine, "groups": [{"work": work, "rows": rows}], "commit": "c0ffee"}, indent=1)
    )
    return path


def test_a_speed_fills_its_cell_and_names_its_device(monkeypatch, capsys, tables: Path, tmp_path: Path) -> None:
    assert run(monkeypatch, "--speed", str(speed_report(tmp_path / "speed.json"))) == 0
    (found,) = load_records(tables)
    assert (found.config, found.kind, found.metrics) == (
        "configs/imagenet/swin_tiny.yaml",
        "timed",
        {"throughput": 24.5},
    )
    table = load_table(TABLES / "table2.yaml")
    entries = build_entries(table, {}, [found])
    lines = cells(table, entries)
    column = lines[0].index("throughput (img. / s)")
    swin = next(line for line in lines if line[0] == "Swin-T")
    assert swin[column : column + 2] == ["713.5", "24.50"] and swin[-1] == "cost verified"
    assert "swin_tiny: timed on Some CPU, 2 threads, fp32, batch 8, swin_tiny+fuse." in footnotes(table, entries)


def test_speeds_of_training_or_of_no_row_are_refused(monkeypatch, capsys, tables: Path, tmp_path: Path) -> None:
    path = speed_report(tmp_path / "speed.json", "train")
    assert "no model in inference: no row" in refused(monkeypatch, capsys, "--speed", str(path))
    path = speed_report(tmp_path / "speed.json", model="swin_nano")
    assert "swin_nano in inference: no row has such a model" in refused(monkeypatch, capsys, "--speed", str(path))
    path.write_text("{}")
    assert "no report of benchmarks/speed.py" in refused(monkeypatch, capsys, "--speed", str(path))


def test_an_own_table_names_its_data() -> None:
    own = {"table": "own_a", "title": "t", "source": "s", "rows": [], "images": {"classification": 5}}
    columns = [{"key": "top1", "label": "top-1", "quantity": "top1"}]
    with pytest.raises(ValueError, match="data, images: missing for classification"):
        Table.model_validate({**own, "columns": columns})
    assert Table.model_validate({**own, "columns": columns, "data": {"classification": "d"}}).images == {
        "classification": 5
    }


def test_an_own_row_is_measured_on_its_own_data_set(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    config = "configs/quickstart/swin_nano.yaml"
    (finished / "config.yaml").write_text(yaml.safe_dump(to_dict(row_config(config))), encoding="utf-8")
    fields = {"model": "swin_nano", "eval_images": 1000, "epochs": 13}
    change(finished / "result.json", dataset="others", **fields)
    assert "others: 1000 images were evaluated; the rows of table own_small are on the 1000 of MNIST-5k" in refused(
        monkeypatch, capsys, str(finished)
    )
    change(finished / "result.json", dataset="MNIST-5k", **fields)
    assert run(monkeypatch, str(finished)) == 0
    assert load_records(tables)[0].config == config


def test_an_own_table_has_no_column_of_the_paper() -> None:
    table = load_table(TABLES / "own_small.yaml")
    lines = cells(table, build_entries(table, {}, []))
    assert "ours" not in lines[0] and lines[0][-3:] == ["AP mask", "CamVid mIoU", "status"]
    by_label = {line[0]: line for line in lines}
    assert by_label["Swin nano"][1] == "1,426,765" and by_label["Swin nano"][-1] == "not run"
