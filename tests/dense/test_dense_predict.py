"""tools/predict.py with detectors and segmentors, alone and side by side; both COCO evaluations agree."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from PIL import Image

from tools import predict
from tools.pictures.dense import Detector, load_dense

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
DETECTION = str(ROOT / "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py")
SEGMENTATION = str(ROOT / "segmentation/configs/upernet_dw-conv-nano_scenes.py")


def checkpoint(config: str, folder: Path) -> str:
    """Random weights of a config's model, saved as the library does."""
    settings = Config.fromfile(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(settings.default_scope):
        model = MODELS.build({**settings.model, "_scope_": settings.default_scope})
    path = folder / f"{Path(config).stem}.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return str(path)


def test_a_detector_and_a_segmentor_side_by_side(scenes: Path, tmp_path: Path) -> None:
    images = sorted((scenes / "images" / "validation").glob("*.jpg"))[:2]
    models = [word for c in (DETECTION, SEGMENTATION) for word in ("--model", c, checkpoint(c, tmp_path))]
    arguments = [*map(str, images), *models, "--out", str(tmp_path / "out"), "--threshold", "0.05"]
    assert predict.main(arguments) == 0
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [sorted(record.keys() - {"image", "model"}) for record in records] == [["objects"], ["labels"]] * 2
    for objects, labels in zip(records[::2], records[1::2], strict=True):
        assert abs(sum(labels["labels"].values()) - 1) < 0.01
        assert set(labels["labels"]) <= {"background", *"0123456789"}
        assert objects["objects"], "random weights are sure of nothing, and 0.05 is little"
        assert {item["name"] for item in objects["objects"]} <= set("0123456789")
        assert all(item["score"] >= 0.05 for item in objects["objects"])
    assert Image.open(tmp_path / "out" / "sheet.png").width > 3 * 420


def test_a_detector_gives_what_it_is_sure_of_the_surest_first() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    found = InstanceData(bboxes=boxes, labels=torch.tensor([2, 0, 1]), scores=torch.tensor([0.5, 0.75, 0.25]))
    found.masks = torch.arange(3).view(3, 1, 1) == torch.arange(3)  # each of another pixel
    detector = Detector.__new__(Detector)
    detector.model, detector.names, detector.threshold = None, ["a", "b", "c"], 0.3
    detector._infer = lambda model, image: SimpleNamespace(pred_instances=found)
    objects = detector(Image.new("RGB", (3, 1))).found
    assert [(item.name, item.index, item.score, item.box) for item in objects] == [
        ("a", 0, 0.75, (5, 6, 7, 8)),
        ("c", 2, 0.5, (1, 2, 3, 4)),
    ]
    assert [item.mask.tolist() for item in objects] == [[[False, True, False]], [[True, False, False]]]


def test_a_segmentor_sees_images_at_the_scale_of_its_test_set(scenes: Path, tmp_path: Path) -> None:
    """Not at ADE20K's, which the library's inference would take from a key that the config has not changed."""
    image = Image.open(next((scenes / "images" / "validation").glob("*.jpg")))
    segmentor = load_dense(SEGMENTATION, checkpoint(SEGMENTATION, tmp_path))
    mean, std = (segmentor.model.cfg.model.data_preprocessor[key] for key in ("mean", "std"))
    pixels = torch.tensor((np.asarray(image, np.float32) - mean) / std, dtype=torch.float32)
    with torch.no_grad():
        logits = segmentor.model.encode_decode(pixels.permute(2, 0, 1)[None], [{"img_shape": image.size[::-1]}])
    assert (logits[0].argmax(0).numpy() == segmentor(image).label).mean() > 0.999


def test_a_checkpoint_of_another_model_is_refused(scenes: Path, tmp_path: Path, capsys) -> None:
    image = str(next((scenes / "images" / "validation").glob("*.jpg")))
    wrong = checkpoint(SEGMENTATION, tmp_path)
    assert predict.main([image, "--model", DETECTION, wrong, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("predict: ") and "does not fit the model" in error[-1]


EVALUATE = """
import json, sys
if sys.argv[3] == "faster":
    import faster_coco_eval
    faster_coco_eval.init_as_pycocotools()
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
found = truth.loadRes(json.load(open(sys.argv[2])))
numbers = []
for kind in ("bbox", "segm"):
    run = COCOeval(truth, found, kind)
    run.evaluate(); run.accumulate(); run.summarize()
    numbers += [float(value) for value in run.stats[:12]]
print(type(run).__module__)
print(json.dumps(numbers))
"""


def test_faster_coco_eval_gives_pycocotools_numbers(scenes: Path, tmp_path: Path) -> None:
    """On the true objects, some shifted, some of a wrong class, some left out, with scores in between."""
    truth = scenes / "annotations" / "instances_train2017.json"
    generator, results = torch.Generator().manual_seed(0), []
    for annotation in json.loads(truth.read_text())["annotations"]:
        draw = torch.rand(4, generator=generator).tolist()
        if draw[0] < 0.15:
            continue
        x, y, width, height = annotation["bbox"]
        category = annotation["category_id"] if draw[1] < 0.8 else annotation["category_id"] % 10 + 1
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": category,
                "bbox": [x + 8 * (draw[2] - 0.5), y, width * (0.8 + 0.4 * draw[3]), height],
                "score": draw[3],
                "segmentation": {**annotation["segmentation"]},
            }
        )
    found = tmp_path / "found.json"
    found.write_text(json.dumps(results))
    numbers = {}
    for kind in ("pycocotools", "faster"):
        command = [sys.executable, "-c", EVALUATE, str(truth), str(found), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        module, line = done.stdout.strip().splitlines()[-2:]
        assert module.startswith("faster_coco_eval") == (kind == "faster")
        numbers[kind] = json.loads(line)
    assert 0.2 < numbers["pycocotools"][0] < 0.9
    assert numbers["faster"] == pytest.approx(numbers["pycocotools"], abs=1e-9)
