"""From a dense run and an evaluation of it to a cell of a table and a curve."""

import json
from pathlib import Path

import pytest
import yaml

from engine.dense.launch import test as run_test
from engine.dense.launch import train
from engine.records import read_run
from models.errors import UserError
from tests.dense.test_dense_runs import CONFIGS, LOADERS
from tools.plot import read_curve
from tools.tables import recording
from tools.tables.entries import build_entries
from tools.tables.render import cells
from tools.tables.schema import Table

pytestmark = pytest.mark.dense
LENGTH = {
    "detection": "train_cfg = dict(max_epochs=2, val_interval=1)\ndefault_hooks = dict(checkpoint=dict(interval=1))",
    "segmentation": "train_cfg = dict(max_iters=4, val_interval=2)\ndefault_hooks = dict(checkpoint=dict(interval=2))",
}
COLUMNS = {
    "detection": {"box_ap": "coco/bbox_mAP", "box_ap50": "coco/bbox_mAP_50", "mask_ap": "coco/segm_mAP"},
    "segmentation": {"miou": "mIoU"},
}


def table_of(task: str, config: Path, data: str, images: int = 6) -> Table:
    return Table.model_validate({
        "table": "own_test", "title": "t", "source": "s", "data": {task: data}, "images": {task: images},
        "columns": [{"key": key, "label": key, "quantity": key, "task": task} for key in COLUMNS[task]],
        "rows": [{"key": "a", "label": "A", "source": "ours", "config": {task: str(config)}}],
    })  # fmt: skip


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_run_and_an_evaluation_fill_cells_and_a_curve(
    task: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    config, run = tmp_path / "short.py", tmp_path / "run"
    config.write_text(
        f"_base_ = {CONFIGS[task]!r}\nauto_scale_lr = dict(base_batch_size=4)\n"
        f"train_dataloader = dict(batch_size=4)\n{LENGTH[task]}\n"
    )
    places = ["--data-root", str(scenes), "--cfg-options", *LOADERS[:2], *LOADERS[3:]]
    train(task, [str(config), "--work-dir", str(run), *places])
    monkeypatch.setattr(recording, "load_tables", lambda *_: [table_of(task, config, scenes.name)])

    record = recording.of_run(run)
    result = json.loads((run / "result.json").read_text())
    factor = 100 if task == "detection" else 1
    for ours, theirs in COLUMNS[task].items():
        assert record.metrics[ours] == pytest.approx(factor * result["metrics"][theirs], abs=1e-3)
    assert (record.kind, record.seed, record.images, record.precision) == ("trained", 0, 6, "fp32")
    table = table_of(task, config, scenes.name)
    line = cells(table, build_entries(table, {}, [record]))[1]
    assert line[1:-1] == [f"{record.metrics[key]:.2f}" for key in COLUMNS[task]]
    assert line[-1] == "trained"

    curve = read_curve(run)
    assert [x for x, _ in curve.loss] == ([1, 2] if task == "detection" else [2, 4])
    assert curve.score[-1][1] == pytest.approx(next(iter(record.metrics.values())), abs=1e-3)
    assert len(read_run(run).validations) == 2

    last = (run / "last_checkpoint").read_text()
    line = tmp_path / "eval.json"
    where = ["--work-dir", str(tmp_path / "test"), "--json", str(line)]
    run_test(task, [str(config), last, *where, *places])
    evaluated = recording.of_evaluation(line, None)
    assert (evaluated.kind, evaluated.checkpoint_sha256) == ("evaluated", record.checkpoint_sha256)
    assert evaluated.metrics == pytest.approx(record.metrics, abs=0.06)  # the library rounds what it logs
    refusals(task, run, config, line, scenes.name, monkeypatch)


def refusals(task: str, run: Path, config: Path, line: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the row's, or not what it says."""
    monkeypatch.setattr(recording, "load_tables", lambda *_: [table_of(task, config, data, images=7)])
    with pytest.raises(UserError, match=f"{data}: 6 images were evaluated; the rows of table own_test are on the 7 of"):
        recording.of_run(run)
    with pytest.raises(UserError, match="6 images were evaluated"):
        recording.of_evaluation(line, None)
    monkeypatch.setattr(recording, "load_tables", lambda *_: [table_of(task, config, data)])
    text = line.read_text()
    line.write_text(json.dumps(json.loads(text) | {"options": ["model.test_cfg.mode=slide"]}))
    with pytest.raises(UserError, match=r"evaluated with model\.test_cfg\.mode=slide"):
        recording.of_evaluation(line, None)
    path = run / "config.yaml"
    kept = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(kept | {"images_per_step": 8}))
    with pytest.raises(UserError, match=r"images_per_step is 8 in the run and 4 in .*short.py, the nearest$"):
        recording.of_run(run)
    path.write_text(yaml.safe_dump(kept | {"pretrained": True, "changed": ["train_cfg.max_iters"]}))
    with pytest.raises(UserError, match="2 keys differ"):
        recording.of_run(run)
    crop = {**kept["val_dataloader"], "dataset": {**kept["val_dataloader"]["dataset"], "pipeline": []}}
    path.write_text(yaml.safe_dump(kept | {"val_dataloader": crop}))
    with pytest.raises(UserError, match=r"no row has this config: val_dataloader\.dataset\.pipeline"):
        recording.of_run(run)
    path.write_text(yaml.safe_dump(kept | {"custom_hooks": [{"type": "EMAHook"}]}))
    with pytest.raises(UserError, match=r"no row has this config: custom_hooks"):
        recording.of_run(run)
    path.write_text(yaml.safe_dump(kept))
    Path((run / "last_checkpoint").read_text()).write_bytes(b"other")
    with pytest.raises(UserError, match="not the weights whose hash"):
        recording.of_run(run)
