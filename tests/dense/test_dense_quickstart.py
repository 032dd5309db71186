"""The dense quickstarts start from the classifier that they train, and a finished one is not run again."""

import json
from pathlib import Path

import pytest

from engine.config import load_config
from tools import quickstart_dense

pytestmark = pytest.mark.dense
METRICS = {"coco/bbox_mAP_50": 0.5, "coco/segm_mAP_50": 0.4, "coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.2}
METRICS |= {"mIoU": 61.25, "aAcc": 97.0}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """The commands that a quickstart gives, in place of running them."""
    given: list[tuple[str, ...]] = []

    def run(*command: str) -> None:
        given.append(command)
        if command[0].endswith("/train.py"):
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "last_checkpoint").write_text("iter_900.pth")
        if "--json" in command:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(METRICS))

    monkeypatch.setattr(quickstart_dense, "run", run)
    monkeypatch.setattr(quickstart_dense, "make_digits", lambda root: None)
    monkeypatch.setattr(quickstart_dense, "make_scenes", lambda root: {k: {"images": 1} for k in ("train", "val")})
    return given


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_model_starts_from_the_classifier(task: str, commands, tmp_path: Path, capsys) -> None:
    quickstart_dense.quickstart(task, tmp_path / "run")
    classifier, dense, *_ = commands
    assert classifier[0] == "train_cls.py" and dense[0] == f"{task}/train.py"
    config = load_config(quickstart_dense.ROOT / classifier[classifier.index("--config") + 1])
    weights = Path(dense[dense.index("--pretrained") + 1])
    assert weights == quickstart_dense.ROOT / config.output / "best.safetensors"
    assert quickstart_dense.ROOT / config.data.root == quickstart_dense.SCENES / "digits"
    assert ("61.2" if task == "segmentation" else "50.0") in capsys.readouterr().out


def test_a_finished_one_only_shows_its_table(commands, tmp_path: Path, capsys) -> None:
    quickstart_dense.quickstart("segmentation", tmp_path / "run")
    given = len(commands)
    quickstart_dense.quickstart("segmentation", tmp_path / "run")
    assert len(commands) == given and "finished already" in capsys.readouterr().out
