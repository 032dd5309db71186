"""What a user gets wrong is said on one line before anything starts, by name, with status 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import mmcv
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from PIL import Image

from engine.dense.arguments import load_mm_config, set_batch
from engine.dense.launch import test as run_test
from engine.dense.launch import train
from engine.dense.pictures import picture_size
from models.errors import UserError
from models.mm import ZooBackbone

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
    with TemporaryDirectory() as work, pytest.raises(UserError) as caught:
        place = [] if "--work-dir" in arguments else ["--work-dir", work]
        train(task, [arguments[0], *place, *arguments[1:]])
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
    message = refused("detection", CASCADE, "--scale-lr")
    assert "checkpoints/dw_conv_tiny.safetensors" in message and "--pretrained" in message
    assert "no_such.pth" in refused("detection", CASCADE, "--scale-lr", "--pretrained", "no_such.pth")


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
        (lambda c: c["annotations"][2].update(bbox=[1, 2, float("nan"), 4]), ["annotation 3", "bbox", "nan"]),
        (lambda c: c["annotations"][2].update(bbox=[9, 9, -4, 5]), ["annotation 3", "negative width"]),
        (
            lambda c: c["annotations"][2].update(bbox=[150, 20, 185, 60]),
            ["annotation 3", "leaves its image", "corners"],
        ),
        (lambda c: c["annotations"][2].pop("area"), ["annotation 3", "area"]),
        (lambda c: c["annotations"][2].pop("segmentation"), ["annotation 3", "segmentation", "mask head"]),
        (lambda c: c["annotations"][2].update(segmentation=[[1, 2, 3, 4]]), ["annotation 3", "segmentation"]),
        (lambda c: c["annotations"][2].update(id=2), ["annotation 2", "twice"]),
        (lambda c: c["annotations"].clear(), ["holds no annotations"]),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], ["no box of any class can be used"]),
        (lambda c: c["images"][1].pop("height"), ["image 1", "height"]),
        (lambda c: c["images"][1].update(width=191), ["image 1", "191x160", "192x160 pixels"]),
        (lambda c: c["images"][1].update(id=0), ["image 0", "twice"]),
        (lambda c: c["categories"].insert(0, c["categories"].pop()), ["'9'", "'0'", "order"]),
        (lambda c: c.update(images={}), ["images", "list"]),
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


def test_default_classes_are_checked_too(copy: Path) -> None:
    """COCO's own names, by the type of the data set: one that is spelt otherwise would shift all later labels."""
    names = list(CocoDataset.METAINFO["classes"])
    wrong = [*names[:3], "Motorcycle", *names[4:]]
    change(annotations(copy), lambda c: c.update(categories=[{"id": i, "name": n} for i, n in enumerate(wrong)]))
    heads = [f"model.roi_head.{head}.num_classes=80" for head in ("bbox_head", "mask_head")]
    options = ["--cfg-options", *heads, "train_dataloader.dataset.metainfo=None"]
    message = refused("detection", DETECTION, "--data-root", str(copy), *options)
    assert "has no category 'motorcycle'; the nearest valid one is Motorcycle" in message


def test_heads_have_an_output_for_each_class(scenes: Path) -> None:
    options = ["--data-root", str(scenes), "--cfg-options"]
    message = refused("detection", DETECTION, *options, "model.roi_head.mask_head.num_classes=9")
    assert "model.roi_head.mask_head.num_classes is 9, but the data set has 10 classes" in message
    message = refused("segmentation", SEGMENTATION, *options, "model.decode_head.num_classes=10")
    assert "model.decode_head.num_classes is 10, but the data set has 11 classes" in message


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(file)
    image.load()
    image.save(file, exif=exif)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_picture_that_exif_turns_must_fit_as_it_is_read(task: str, copy: Path) -> None:
    """The oracle is the reader of both libraries: mmcv decodes this picture as 192 high and 160 wide."""
    file = copy / "images" / "training" / "000003.jpg"
    turned(file)
    assert mmcv.imfrombytes(file.read_bytes()).shape[:2] == (192, 160)
    message = refused(task, {"detection": DETECTION, "segmentation": SEGMENTATION}[task], "--data-root", str(copy))
    assert "000003" in message and "160x192" in message and "EXIF" in message


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_truncated_picture_is_named(task: str, copy: Path) -> None:
    file = copy / "images" / "training" / "000003.jpg"
    file.write_bytes(file.read_bytes()[:-40])
    message = refused(task, {"detection": DETECTION, "segmentation": SEGMENTATION}[task], "--data-root", str(copy))
    assert message.startswith(f"{file}: cannot be read as an image (image file is truncated")


def test_a_picture_with_something_behind_its_end_is_whole(copy: Path) -> None:
    """Cameras append short films; the readers of both libraries stop at the picture's end."""
    file = copy / "images" / "training" / "000003.jpg"
    file.write_bytes(file.read_bytes() + b"film" * 5000)
    assert mmcv.imfrombytes(file.read_bytes()).shape[:2] == (160, 192)
    assert picture_size(file, turn=True) == (192, 160)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda label: np.where(label > 1, 0, 255), ["no class of 11 occurs", "255 is `ignore`"]),
        (lambda label: label > 1, ["only class 0 of 11 occurs", "0 is `ignore` and the classes begin at 1"]),
        (lambda label: np.full_like(label, 255), ["no class of 11 occurs"]),
    ],
)
def test_labels_without_anything_to_tell_apart(copy: Path, edit, words: list[str]) -> None:
    """Masks of 0 and 255, two classes 0 and 1 under reduce_zero_label, and nothing but `ignore`."""
    for file in (copy / "annotations" / "training").glob("*.png"):
        Image.fromarray(edit(np.asarray(Image.open(file))).astype(np.uint8)).save(file)
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert all(word in message for word in words), message


def test_files_that_would_be_left_out_are_named(copy: Path) -> None:
    images, labels = (copy / part / "training" for part in ("images", "annotations"))
    (images / "000003.jpg").rename(images / "000003.JPG")
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert "000003.JPG" in message and "do not end in .jpg" in message
    (images / "000003.JPG").unlink()
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert str(images / "000003.jpg") in message and "label image does" in message
    (labels / "000003.png").unlink()
    small = Image.open(labels / "000002.png").resize((96, 80))
    small.save(labels / "000002.png")
    message = refused("segmentation", SEGMENTATION, "--data-root", str(copy))
    assert "000002.png: has 96x80 pixels, but its picture 192x160" in message


def test_another_total_batch_is_refused_or_scaled(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused("detection", CASCADE, "--pretrained", "none")
    assert "steps of 2, but the learning rate is for 16; start 8 processes" in message and "--scale-lr" in message
    config = load_mm_config(CASCADE, {})
    config.launcher = "pytorch"
    monkeypatch.setenv("WORLD_SIZE", "8")
    set_batch(config, scale=False)
    assert config.auto_scale_lr == {"enable": False, "base_batch_size": 16}
    config.optim_wrapper.accumulative_counts = 4
    with pytest.raises(UserError, match="2 images x 8 processes x 4 accumulated parts make steps of 64"):
        set_batch(config, scale=False)
    set_batch(config, scale=True)  # 16 images a forward pass, 4 of them a step: four times the rate
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 4}
    config.auto_scale_lr = {"enable": True, "base_batch_size": 16}  # the config's own wish is as good as the option
    set_batch(config, scale=False)
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 4}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"type": "Pretrained", "checkpont": "a.pth"}, ["init_cfg.checkpont", "nearest valid one is checkpoint"]),
        ({"type": "Pretraind", "checkpoint": "a.pth"}, ["init_cfg.type", "'Pretrained' only"]),
        ([{"type": "Pretrained", "checkpoint": "a.pth"}], ["init_cfg: a list"]),
        ({"type": "Pretrained", "checkpoint": "https://host/a.pth"}, ["init_cfg.checkpoint", "not the path"]),
        ({"type": "Pretrained"}, ["init_cfg.checkpoint"]),
    ],
)
def test_a_start_that_the_library_would_pass_over(value, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        ZooBackbone("dw_conv_nano", init_cfg=value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_first_start_with_resume_keeps_the_weights_to_start_from(scenes: Path) -> None:
    """Sweeps and the quickstarts always say --resume; with nothing to resume, load_from still counts."""
    arguments = ["--data-root", str(scenes), "--resume", "--cfg-options"]
    assert refused("segmentation", SEGMENTATION, *arguments, "load_from=nowhere.pth") == (
        "checkpoint nowhere.pth: no such file"
    )
    message = refused("segmentation", SEGMENTATION, *arguments, "load_from=[a.pth,b.pth]")
    assert "load_from: ['a.pth', 'b.pth'] is not the path of one file" in message
    message = refused("segmentation", SEGMENTATION, *arguments, "load_from=https://host/a.pth")
    assert message == "checkpoint https://host/a.pth: an address; download the file and give its path"


def test_a_work_dir_that_cannot_be_written_is_one_line(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("detection", DETECTION, "--data-root", str(scenes), "--work-dir", str(tmp_path / "file" / "run"))
    assert message.startswith(f"--work-dir {tmp_path}/file/run: cannot be written to")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_bf16_is_not_for_detectors(scenes: Path) -> None:
    message = refused("detection", DETECTION, "--data-root", str(scenes), "--amp", "bf16")
    told = "mmcv's RoIAlign and box suppression know no bfloat16; --amp fp16 on a GPU, or leave it out"
    assert message == f"--amp bf16: {told}"


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
