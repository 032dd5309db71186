"""The released detectors and segmentors: names of mmdet 2 and mmseg 0 in today's models, from a file to a record."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from engine.dense import weights
from engine.dense.cost import build_meta
from engine.dense.launch import test as run_test
from engine.weights import file_hash
from models.errors import UserError
from models.released import Release, released
from tests.models.oracle import Maker
from tests.stand_in.sets import make_ade20k, make_coco, make_tables
from tests.stand_in.weights import content, save
from tools.reproduction.evaluations import Evaluation
from tools.reproduction.places import Place, find_places
from tools.reproduction.report import measures
from tools.reproduction.runner import last_json
from tools.tables.entries import build_entries
from tools.tables.loading import load_table
from tools.tables.recording import of_evaluation
from tools.tables.render import cells

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {  # PAPER: measured on the authors' models, in millions
    ("swin_tiny", "detection"): 85.630,
    ("d_dw_conv_base", "detection"): 218.807,
    ("swin_base", "segmentation"): 121.280,
    ("dw_conv_tiny", "segmentation"): 55.826,
}


@pytest.mark.parametrize(("model", "task"), PARAMETERS)
def test_every_key_of_a_full_size_release_is_used_once(model: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reader of evaluations, which leaves nothing over and nothing out; and no key could stand for another."""
    release = released(model, task)  # type: ignore[arg-type]
    monkeypatch.setattr(
        Maker,
        "add",
        lambda self, name, *shape, **_: self.state.update({name: torch.empty(shape, device="meta")}),
    )
    file = content(release)
    state = file["state_dict"]
    state |= {key: value.to("meta") for key, value in state.items() if not key.endswith("position_index")}
    monkeypatch.setattr(weights, "read_checkpoint", lambda path: file)
    detector = build_meta(Config.fromfile(ROOT / release.config))
    weights.load_model(detector, release.file)
    assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 3) == PARAMETERS[model, task]
    buffers = (".running_mean", ".running_var", ".num_batches_tracked", "relative_position_index")
    held = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
    assert round(held / 1e6, 3) == PARAMETERS[model, task]
    for key in ("backbone.norm2.weight", next(key for key in state if "head" in key)):
        value = state.pop(key)
        with pytest.raises(UserError, match=f"1 missing, first {key}"):
            weights.load_model(detector, release.file)
        state[key] = value


LOAD = '[dict(type="LoadImageFromFile"), dict(type="Resize", scale=({}), keep_ratio=True), '
SMALL = {
    "detection": LOAD.format("96, 64") + 'dict(type="LoadAnnotations", with_bbox=True, with_mask=True), dict('
    'type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))]',
    "segmentation": LOAD.format("128, 64")
    + 'dict(type="LoadAnnotations", reduce_zero_label=True), dict(type="PackSegInputs")]',
}
"""The test pipelines of the configs, on smaller images."""
MODEL = {
    "detection": "neck=dict(in_channels=[32, 64, 128, 256]), "
    "test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5))",
    "segmentation": "decode_head=dict(in_channels=[32, 64, 128, 256]), auxiliary_head=dict(in_channels=128)",
}


@dataclass(frozen=True, kw_only=True)
class SmallRelease(Release):
    """A nano backbone in the heads of full size."""

    own_config: str

    @property
    def config(self) -> str:
        return self.own_config


@pytest.fixture(params=["detection", "segmentation"])
def evaluation(request: pytest.FixtureRequest, tmp_path: Path) -> Evaluation:
    """Of a made-up release on two of three pictures in COCO's or ADE20K's layout."""
    task = request.param
    config, source = tmp_path / "small.py", ROOT / released("dw_conv_tiny", task).config
    config.write_text(
        f"_base_ = {str(source)!r}\n"
        f"model = dict(backbone=dict(name='dw_conv_nano', init_cfg=None), {MODEL[task]})\n"
        f"test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline={SMALL[task]}))\n"
    )
    if task == "detection":
        make_coco(tmp_path / "data", 3, list(CocoDataset.METAINFO["classes"]), size=(96, 64))
    else:
        make_ade20k(tmp_path / "data", 3, size=(96, 64))
    release = SmallRelease(
        file="whole_dwnet_nano.pth", prefix="x/", model="dw_conv_nano", task=task, readme={}, own_config=str(config)
    )
    (tmp_path / "out").mkdir()
    return Evaluation(release, find_places(tmp_path / "data", {})[task], tmp_path / "out", part=2)


def tables_for(evaluation: Evaluation, folder: Path, images: int) -> Path:
    """Tables on so many pictures, whose Table 3 has one row: the release's."""
    task = evaluation.release.task
    make_tables(folder, {"classification": images, "detection": images, "segmentation": images}, images)
    path = folder / "table3.yaml"
    table = yaml.safe_load(path.read_text())
    table["rows"] = [table["rows"][1] | {"config": {task: evaluation.release.config}}]
    path.write_text(yaml.safe_dump(table, sort_keys=False))
    return folder


def test_a_part_from_a_released_file_to_the_cells(
    evaluation: Evaluation, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    release = evaluation.release
    _, script, *arguments = evaluation.command(save(release, tmp_path), 1)
    assert script == str(ROOT / release.task / "test.py")
    capfd.readouterr()
    run_test(release.task, arguments)
    evaluation.log.write_text(capfd.readouterr().out)
    line = last_json(evaluation.log)
    assert line is not None
    result = evaluation.keep(line, 1.0)
    assert result["eval_images"] == 2

    tables = tables_for(evaluation, tmp_path / "two", 2)
    record = of_evaluation(evaluation.result, None, release=release.file, folder=tables)
    assert (record.images, record.release, record.kind) == (2, "whole_dwnet_nano.pth", "evaluated")
    assert record.checkpoint_sha256 == file_hash(tmp_path / release.file)
    found = {measure.metric: measure.value for measure in measures(evaluation, result)}
    assert found == record.metrics and found and all(0 <= value <= 100 for value in found.values())
    table = load_table(tables / "table3.yaml")
    (row,) = cells(table, build_entries(table, {}, [record]))[1:]
    for metric, value in record.metrics.items():
        number = [column.key for column in table.columns].index(metric)
        assert row[2 + 2 * number] == f"{value:.2f}"
    assert row[-1] == "released weights"
    with pytest.raises(UserError, match="2 images were evaluated; the rows of table 3 are on the 3 of"):
        of_evaluation(evaluation.result, None, folder=tables_for(evaluation, tmp_path / "three", 3))


def test_a_part_of_coco_keeps_what_belongs_to_its_images(tmp_path: Path) -> None:
    make_coco(tmp_path / "data", 3, ["person", "bicycle"], size=(96, 64))
    release = released("swin_tiny", "detection")
    part = Evaluation(release, Place(tmp_path / "data", 3), tmp_path, part=2)
    assert part.command(Path("w.pth"), 1)[-1].endswith(f"ann_file={tmp_path / 'instances_val2017.json'}")
    whole = json.loads((tmp_path / "data" / "annotations" / "instances_val2017.json").read_text())
    drawn = json.loads((tmp_path / "instances_val2017.json").read_text())
    ids = [image["id"] for image in drawn["images"]]
    assert len(set(ids)) == 2 and drawn["categories"] == whole["categories"]
    assert drawn["annotations"] == [each for each in whole["annotations"] if each["image_id"] in ids]
    assert len(drawn["annotations"]) == 4
