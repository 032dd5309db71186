"""Records of runs: what is written is what is read, and a file that is none is named."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.records import Record, RunFolder, StepRecord, log_lines, read_json, read_result, read_run
from models.errors import UserError

RUN = {
    **{
        "model": "dw_conv_nano",
        "dataset": "digits",
        "top1": 50.0,
        "top5": 75.0,
        "eval_images": 4,
        "labels": "original",
    },
    **{"best_top1": 62.5, "best_epoch": 2, "params": 10, "images_per_second": None, "train_seconds": 1.5, "epochs": 3},
    **{"steps": 9, "skipped_steps": 1, "seed": 5, "ranks": 1, "commit": "abc", "device": "cpu"},
    **{"checkpoint_sha256": "f00", "best_sha256": None},
}
DENSE = {
    **{"metrics": {"bbox_mAP": 0.25, "rare": None}, "iterations": 30, "eval_images": 4, "dataset": "scenes", "seed": 0},
    **{"commit": "abc", "device": "cpu", "checkpoint_sha256": None},
}
EPOCH = {"kind": "epoch", "epoch": 1, "step": 3, "skipped": 0, "train_loss": 2.5, "replaced_images": 0}
CHECKED = {"kind": "validation", "epoch": None, "iteration": 30, "train_loss": None, "metrics": {"mIoU": 40.0}}


@dataclass(frozen=True, kw_only=True)
class Meal(Record):
    kind: str = "meal"
    guests: int | None
    bread: float
    wine: str | None = None


def write(path: Path, *values: dict, indent: int | None = None) -> Path:
    path.write_text("\n".join(json.dumps(value, indent=indent) for value in values) + "\n")
    return path


def test_a_record_keeps_the_order_and_leaves_out_only_what_is_none_by_default() -> None:
    assert list(Meal(guests=None, bread=0.5).to_json().items()) == [("kind", "meal"), ("guests", None), ("bread", 0.5)]
    full = Meal(guests=2, bread=0.5, wine="red").to_json()
    assert full == {"kind": "meal", "guests": 2, "bread": 0.5, "wine": "red"}


def test_a_record_reads_its_own_keys_and_names_one_that_is_missing() -> None:
    found = Meal.from_json({"guests": 1, "bread": 2.0, "wine": "white", "cheese": 3}, "menu.json")
    assert found == Meal(guests=1, bread=2.0, wine="white")
    assert Meal.from_json({"guests": None, "bread": 1.0}, "menu.json").kind == "meal"
    with pytest.raises(UserError) as caught:
        Meal.from_json({"guests": 1}, "menu.json")
    assert str(caught.value) == "menu.json: bread: missing"


def test_a_run_is_read_with_all_that_it_left(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {name: dw_conv_nano}\ntitle: Größe\n", encoding="utf-8")
    step = StepRecord(
        **{"step": 1, "epoch": 1, "loss": None, "lr": 0.1, "grad_norm": None, "images_per_second": 2.0},
        **{"step_seconds": 0.5, "data_seconds": 0.1, "memory_gib": 1.0, "eta_seconds": 9.0},
    )
    write(tmp_path / "log.jsonl", step.to_json(), EPOCH, CHECKED, {**EPOCH, "epoch": 2, "top1": 12.5})
    write(tmp_path / "result.json", RUN, indent=2)
    run = read_run(tmp_path)
    assert run.config == {"model": {"name": "dw_conv_nano"}, "title": "Größe"} and run.folder == tmp_path
    assert [(record.epoch, record.top1, record.train_loss) for record in run.epochs] == [(1, None, 2.5), (2, 12.5, 2.5)]
    assert [(record.iteration, record.metrics) for record in run.validations] == [(30, {"mIoU": 40.0})]
    assert run.finished().best_top1 == 62.5 and run.finished().to_json() == RUN
    assert (run.weights, run.best) == (tmp_path / "last.safetensors", tmp_path / "best.safetensors")


def test_a_run_that_has_not_ended_has_no_result(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", EPOCH)
    run = read_run(tmp_path)
    assert run.config == {} and run.result is None and len(run.epochs) == 1
    with pytest.raises(UserError) as caught:
        run.finished()
    assert str(caught.value) == f"{tmp_path}/result.json: no such file"


def test_a_dense_result_is_known_and_is_no_classifiers(tmp_path: Path) -> None:
    write(tmp_path / "result.json", DENSE, indent=1)
    found = read_result(tmp_path / "result.json")
    assert found.to_json() == DENSE and RunFolder.RESULT == "result.json"
    with pytest.raises(UserError) as caught:
        read_run(tmp_path).finished()
    assert str(caught.value) == f"{tmp_path}/result.json: a detector's or segmentor's, not a classifier's"


def test_what_is_no_run_folder_is_said_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_run(tmp_path / "run1")
    assert str(caught.value) == (f"{tmp_path}/run1: no config.yaml, log.jsonl or result.json, so this is no run folder")
    (tmp_path / "run2").mkdir()
    write(tmp_path / "run2" / "log.jsonl", EPOCH)
    with pytest.raises(UserError, match=f"so this is no run folder; the nearest valid one is {tmp_path}/run2"):
        read_run(tmp_path / "run1")


@pytest.mark.parametrize("left", ["config.yaml", "log.jsonl", "result.json"])
def test_any_file_of_a_run_makes_a_run_folder(tmp_path: Path, left: str) -> None:
    write(tmp_path / left, RUN if left == "result.json" else EPOCH, indent=1 if left == "result.json" else None)
    assert read_run(tmp_path).folder == tmp_path


def test_json_is_a_whole_file_or_the_last_line_of_an_output(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert read_json(write(path, {"a": 1}, indent=2)) == {"a": 1}
    path.write_text('{"a": 0}\nsome words ü\n{"a": {"b": 2}}\n\n', encoding="utf-8")
    assert read_json(path) == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: "),
        ("{", "no JSON: "),
        ("[1, 2]", "a JSON mapping is wanted"),
    ],
)
def test_what_is_no_json_mapping_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read: "):
        read_json(tmp_path / "nowhere.json")


def test_lines_of_a_log_are_counted_and_only_the_last_may_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert log_lines(path) == []
    path.write_text('{"a": 1}\n{"b": "ü"}\n{"c', encoding="utf-8")
    assert log_lines(path) == [(1, {"a": 1}), (2, {"b": "ü"})]
    path.write_text('{"a": 1}\n{"b\n{"c": 3}\n')
    with pytest.raises(UserError) as caught:
        log_lines(path)
    assert str(caught.value) == f"{path}: line 2 is no JSON record"


@pytest.mark.parametrize(("record", "missing"), [(EPOCH, "skipped"), (CHECKED, "metrics")])
def test_a_line_that_lacks_a_key_is_named_with_its_number(tmp_path: Path, record: dict, missing: str) -> None:
    short = {key: value for key, value in record.items() if key != missing}
    write(tmp_path / "log.jsonl", EPOCH, short)
    with pytest.raises(UserError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == f"{tmp_path}/log.jsonl: line 2: {missing}: missing"


def test_a_result_that_lacks_a_key_is_named(tmp_path: Path) -> None:
    write(tmp_path / "result.json", {key: value for key, value in RUN.items() if key != "seed"}, indent=2)
    with pytest.raises(UserError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == f"{tmp_path}/result.json: seed: missing"
