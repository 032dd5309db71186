"""The paper's detectors and segmentors, heads and losses whole, take a training step on one device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", [
    "detection/configs/cascade-mask-rcnn_d-dw-conv-tiny_fpn_3x_coco.py",
    "detection/configs/mask-rcnn_dw-conv-tiny_fpn_1x_coco.py",
    "segmentation/configs/upernet_i-dynamic-tiny_160k_ade20k-512x512.py",
])  # fmt: skip
def test_the_papers_models_take_a_step_on_one_device(name: str) -> None:
    """The full heads on a nano backbone: a loss, and a gradient for every parameter that can have one."""
    config = Config.fromfile(ROOT / name)
    model = config.model
    model.backbone.update(name=model.backbone.name.replace("tiny", "nano"), init_cfg=None)
    scope, widths = config.default_scope, [32, 64, 128, 256]
    if scope == "mmdet":
        model.neck.in_channels = widths
        stages = model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]
        for stage in stages:
            stage.sampler.num = 8
        model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    else:
        model.decode_head.in_channels, model.auxiliary_head.in_channels = widths, 128
        model.data_preprocessor.size = (100, 130)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        built = revert_sync_batchnorm(MODELS.build({**model, "_scope_": scope})).train()
        losses, _ = built.parse_losses(built(**built.data_preprocessor(sample(scope), True), mode="loss"))
    losses.backward()
    assert losses.isfinite()
    without = [key for key, value in built.named_parameters() if value.grad is None]
    assert without == []


def sample(scope: str) -> dict:
    """Two images of 100x130 with two objects each, or with labels."""
    samples = []
    for _ in range(2):
        meta = {"img_shape": (100, 130), "ori_shape": (100, 130), "scale_factor": (1.0, 1.0)}
        if scope == "mmdet":
            boxes = torch.tensor([[10.0, 10, 50, 60], [60, 20, 120, 90]])
            masks = np.zeros((2, 100, 130), np.uint8)
            masks[0, 10:60, 10:50] = masks[1, 20:90, 60:120] = 1
            item = DetDataSample(metainfo=meta)
            item.gt_instances = InstanceData(
                bboxes=boxes, labels=torch.tensor([3, 70]), masks=BitmapMasks(masks, 100, 130)
            )
        else:
            item = SegDataSample(metainfo=meta)
            item.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 100, 130)))
        samples.append(item)
    return {
        "inputs": [torch.randint(0, 255, (3, 100, 130), dtype=torch.uint8) for _ in range(2)],
        "data_samples": samples,
    }
