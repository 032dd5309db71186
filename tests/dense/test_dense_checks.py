"""What a user gets wrong is said on one line before anything starts, by name, with status 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.dense.arguments import load_mm_config
from engine.dense.launch import test as run_test
from engine.dense.launch import train
from models.errors import UserError

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
DETECTION = str(ROOT / "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py")
SEGMENTATION = str(ROOT / "segmentation/configs/upernet_dw-conv-nano_scenes.py")
CASCADE = str(ROOT / "detection/configs/cascade-mask-rcnn_dw-conv-tiny_fpn_3x_coco.py")


@pytest.fixture
def copy(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes that a test may break."""
    return Path(shutil.copytree(scenes, tmp_path / "copy"))


def refused(task: str, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        train(task, list(arguments))
    return str(caught.value)


def annotations(root: Path) -> Path:
    return root / "annotations" / "instances_train2017.json"


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_wrong_paths(scenes: Path, tmp_path: Path) -> None:
    assert "mask-rcnn_dw-conv-nano_fpn_scenes.py" in refused("detection", DETECTION.replace("nano", "nan"))
    assert "/nowhere" in refused("detection", DETECTION, "--data-root", "/nowhere")
    with pytest.raises(UserError, match=r"best\.pth"):
        run_test("detection", [DETECTION, str(tmp_path / "best.pth"), "--data-root", str(scenes)])


def test_config_of_the_other_task() -> None:
    assert "is for segmentation" in refused("detection", SEGMENTATION)


def test_unknown_option_names_the_nearest(scenes: Path) -> None:
    message = refused("detection", DETECTION, "--cfg-options", "train_cfg.max_epoch=2")
    assert "train_cfg.max_epoch" in message and "nearest valid one is max_epochs" in message


def test_a_plus_adds_a_key() -> None:
    assert load_mm_config(DETECTION, {"+find_unused_parameters": True}).find_unused_parameters is True


def test_wrong_value_for_the_backbone(scenes: Path, tmp_path: Path) -> None:
    options = ["--data-root", str(scenes), "--work-dir", str(tmp_path), "--cfg-options"]
    assert "dw_conv_nano" in refused("segmentation", SEGMENTATION, *options, "model.backbone.name=dw_conv_nanno")


def test_missing_pretrained_weights(scenes: Path) -> None:
    message = refused("detection", CASCADE)
    assert "checkpoints/dw_conv_tiny.safetensors" in message and "--pretrained" in message
    assert "no_such.pth" in refused("detection", CASCADE, "--pretrained", "no_such.pth")


def test_missing_annotation_file_and_images(copy: Path) -> None:
    annotations(copy).rename(copy / "annotations" / "instances_train.json")
    message = refused("detection", DETECTION, "--data-root", str(copy))
    assert str(annotations(copy)) in message and "nearest valid one is instances_train.json" in message
    (copy / "annotations" / "instances_train.json").rename(annotations(copy))
    (copy / "images" / "training" / "000003.jpg").unlink()
    assert "000003.jpg" in refused("detection", DETECTION, "--data-root", str(copy))


@pytest.mark.parametrize(
    "edit,words",
    [
        (lambda c: c.pop("categories"), ["categories"]),
        (lambda c: c["categories"][7].update(name="seven"), ["'7'"]),
        (lambda c: c["annotations"][2].update(category_id=99), ["annotation 3", "99"]),
        (lambda c: c["annotations"][2].update(image_id=999), ["annotation 3", "999"]),
        (lambda c: c["annotations"][2].update(bbox=[1, 2]), ["annotation 3", "bbox"]),
    ],
)
def test_broken_annotations(copy: Path, edit, words: list[str]) -> None:
    change(annotations(copy), edit)
    message = refused("detection", DETECTION, "--data-root", str(copy))
    assert all(word in message for word in [annotations(copy).name, *words]), message


def test_label_values_out_of_range(copy: Path) -> None:
    file = copy / "annotations" / "training" / "000002.png"
    label = np.asarray(Image.open(file)).copy()
    label[4, 5] = 12
    Image.fromarray(label).save(file)
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert "000002.png" in message and "12" in message and "11 classes" in message
    label[4, 5] = 255
    Image.fromarray(label).save(file)
    Image.fromarray(np.stack([label] * 3, -1)).save(copy / "annotations" / "training" / "000005.png")
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert "000005.png" in message and "RGB" in message


def test_missing_label_image(copy: Path) -> None:
    (copy / "annotations" / "validation" / "000001.png").unlink()
    assert "validation/000001.png" in refused("segmentation", SEGMENTATION, "--data-root", str(copy))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_fp16_needs_a_gpu(scenes: Path) -> None:
    message = refused("detection", DETECTION, "--data-root", str(scenes), "--amp", "fp16")
    assert "--amp" in message and "bf16" in message


def test_the_command_ends_with_one_line_and_status_2() -> None:
    command = [sys.executable, "detection/train.py", DETECTION, "--data-root", "/nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: --data-root /nowhere: no such folder"
    assert "Traceback" not in done.stderr
