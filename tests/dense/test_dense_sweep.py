"""Sweeps that train segmentors from the weights of classifiers of the same sweep."""

import json
from pathlib import Path

import pytest
import yaml
from whole_records import sweep_row

from data.prepare.scenes import make_digits
from models import build_model
from models.errors import UserError
from models.mm import ZooBackbone
from tools import sweep
from tools.sweeps.grid import load_grid
from tools.sweeps.jobs import jobs
from tools.sweeps.report import METRICS, SweepRow
from tools.sweeps.runner import check_configs

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
SEGMENTOR = "segmentation/configs/upernet_dw-conv-nano_scenes.py"
SHORT = "train_cfg.max_iters=1 train_dataloader.num_workers=0 train_dataloader.persistent_workers=False"
DIGITS = "configs/quickstart/dense_backbone.yaml model.img_size=32 train.epochs=1 train.warmup_epochs=0"
SMALL = "train.batch_size=10 train.bn_batch=10"


def grid_file(folder: Path, scenes: Path, **changes: str) -> Path:
    """A classifier of scenes' digits, and a segmentor from its weights and from random ones."""
    roots = " ".join(f"{split}_dataloader.dataset.data_root={scenes}" for split in ("train", "val"))
    dense = {"task": "segmentation", "config": f"{SEGMENTOR} {SHORT} {roots}"} | changes
    grid = {
        "name": "dense",
        "title": "Segmentors",
        "seeds": [0],
        "runs": [
            {"name": "digits", "label": "digits", "config": f"{DIGITS} {SMALL} data.root={folder}/digits"},
            {"name": "random", "label": "from random weights", **dense},
            {"name": "started", "label": "from digits", "start_from": "digits", **dense},
        ],
        "groups": [{"title": "UPerNet", "runs": ["random", "started"]}],
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid), encoding="utf-8")
    return path


def test_segmentors_start_from_classifiers_of_the_sweep(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_digits(tmp_path / "digits", each=20)
    grid = grid_file(tmp_path, scenes)
    arguments = [str(grid), "--output", str(tmp_path / "runs"), "--save", str(tmp_path / "kept.json")]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["sweep.py", *arguments])
    assert sweep.main() == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "mIoU (%)" in printed and "top-1" not in printed
    rows = {row["name"]: row for row in json.loads((tmp_path / "kept.json").read_text())["rows"]}
    result = json.loads((tmp_path / "runs/started/seed0/result.json").read_text())
    assert rows["started"]["mean"] == rows["started"]["runs"][0]["mIoU"] == result["metrics"]["mIoU"]
    assert rows["started"]["runs"][0]["iterations"] == 1 and rows["started"]["img_size"] == [512, 2048]
    assert rows["random"]["params"] == rows["started"]["params"] > rows["digits"]["params"]
    loaded = "digits/seed0/last.safetensors: initialised anew: the output norms"
    assert loaded in (tmp_path / "runs/started/seed0/sweep.log").read_text()
    assert loaded not in (tmp_path / "runs/random/seed0/sweep.log").read_text()
    assert (tmp_path / "kept.png").stat().st_size > 1000
    assert all(job.is_finished() for job in jobs(load_grid(grid), tmp_path / "runs", ROOT))
    other = grid_file(tmp_path, scenes, config=f"{SEGMENTOR} {SHORT} optim_wrapper.optimizer.lr=0.5")
    with pytest.raises(UserError, match="holds a run with another 'optim_wrapper' in its config"):
        jobs(load_grid(other), tmp_path / "runs", ROOT)[1].is_finished()


def test_a_wrong_dense_config_is_refused_before_anything_starts(scenes: Path, tmp_path: Path) -> None:
    for config, message in (
        (f"{SEGMENTOR} train_cfg.max_iter=1", "the nearest valid one is max_iters"),
        (
            "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py",
            "is for detection, this command is for segmentation",
        ),
        ("segmentation/configs/upernet_nothing.py", "no such file"),
    ):
        grid = load_grid(grid_file(tmp_path, scenes, config=config))
        with pytest.raises(UserError, match=f"runs: random: .*{message}"):
            check_configs(jobs(grid, tmp_path / "runs", ROOT))


def test_the_camvid_grid_resolves_and_its_backbones_take_the_classifiers_weights() -> None:
    """The configs of the segmentors repeat the sizes of configs/proxy; every weight must fit, and only them."""
    grid = load_grid(ROOT / "configs/sweeps/camvid.yaml")
    work = jobs(grid, Path("runs/proxy"), ROOT)
    check_configs(work)
    configs = {job.run.name: job.resolved() for job in work if job.seed == 0}
    started = [run for run in grid.runs if run.start_from]
    assert len(started) == 3
    for run in started:
        classifier = build_model(configs[run.start_from].model)
        options = dict(configs[run.name].model.backbone)
        assert options.pop("type") == "ZooBackbone"
        report = ZooBackbone(**options).load_zoo_state(classifier.state_dict())
        assert report.replaced_head == "the output norms norm0, norm1, norm2, norm3"


def test_a_detector_is_compared_by_box_ap_in_percent() -> None:
    assert SweepRow(**sweep_row(task="detection", runs=[{"coco/bbox_mAP": 0.25, "seed": 0}])).scores == [25.0]
    assert METRICS["detection"].name == "box AP (%)"
