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
from tools.tables.results import load_records

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


def test_weights_that_are_not_the_runs_are_refused(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    (finished / "last.safetensors").write_bytes(b"other weights")
    err = refused(monkeypatch, capsys, str(finished))
    assert "last.safetensors: not the weights whose hash" in err
    assert load_records(tables) == []


def test_another_recipe_is_refused_by_its_key(monkeypatch, capsys, tables: Path, finished: Path) -> None:
    path = finished / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 300", "epochs: 30"), encoding="utf-8")
    err = refused(monkeypatch, capsys, str(finished))
    assert f"no row has this config: train.epochs is 30 in the run and 300 in {CONFIG}" in err


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


def test_a_record_with_an_unknown_key_is_refused(tables: Path) -> None:
    (tables / "results.yaml").write_text("records: [{confg: x}]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"record 1: confg"):
        load_records(tables)
