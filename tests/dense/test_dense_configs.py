"""The configs say what PAPER section 2 says, in at most 40 lines, through the libraries' own."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from engine.dense.arguments import set_multi_scale
from models import list_models
from models.mm import ZooBackbone

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
DETECTION = sorted((ROOT / "detection" / "configs").glob("*.py"))
SEGMENTATION = sorted((ROOT / "segmentation" / "configs").glob("*.py"))
MODELS = [f"{family}_{size}" for family in ("swin", "dw_conv", "d_dw_conv", "i_dynamic") for size in ("tiny", "base")]


def config_of(kind: str, model: str) -> Config:
    slug = model.replace("_", "-")
    name = {
        "cascade": f"detection/configs/cascade-mask-rcnn_{slug}_fpn_3x_coco.py",
        "mask": f"detection/configs/mask-rcnn_{slug}_fpn_1x_coco.py",
        "upernet": f"segmentation/configs/upernet_{slug}_160k_ade20k-512x512.py",
    }[kind]
    return Config.fromfile(ROOT / name)


@pytest.mark.parametrize("path", [*DETECTION, *SEGMENTATION, *ROOT.glob("*/configs/_base_/*.py")], ids=lambda p: p.name)
def test_every_config_is_short_and_loads(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    config = Config.fromfile(path)
    assert "_base_" in path.read_text() and config.default_scope in ("mmdet", "mmseg")


@pytest.mark.parametrize("model", MODELS)
def test_cascade_is_swins_set_up(model: str) -> None:
    config = config_of("cascade", model)
    backbone, base = config.model.backbone, model.endswith("base")
    assert backbone.name == model and backbone.name in list_models()
    assert backbone.drop_path_rate == (0.3 if base else 0.2)
    width = 128 if base else 96
    assert config.model.neck.in_channels == [width, 2 * width, 4 * width, 8 * width]
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.05}
    assert config.train_cfg.max_epochs == 36 and config.param_scheduler[1].milestones == [27, 33]
    assert config.train_dataloader.batch_size * 8 == 16
    heads = config.model.roi_head.bbox_head
    assert [head.loss_bbox.type for head in heads] == ["GIoULoss"] * 3
    assert all((head.num_shared_convs, head.num_shared_fcs) == (4, 1) and head.reg_decoded_bbox for head in heads)
    plain, crop = config.train_dataloader.dataset.pipeline[3].transforms
    assert [scale[0] for scale in plain[0].scales] == list(range(480, 801, 32))
    assert {scale[1] for scale in plain[0].scales} == {1333}
    assert [step.type for step in crop] == ["RandomChoiceResize", "RandomCrop", "RandomChoiceResize"]
    assert config.sync_bn == "torch"


def test_mask_rcnn_has_the_schedule_of_swins_users() -> None:
    config = config_of("mask", "dw_conv_tiny")
    assert config.model.type == "MaskRCNN" and config.model.backbone.name == "dw_conv_tiny"
    assert config.train_cfg.max_epochs == 12 and config.param_scheduler[1].milestones == [8, 11]
    assert config.optim_wrapper.optimizer.type == "AdamW" and config.optim_wrapper.optimizer.lr == 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_upernet_is_swins_set_up(model: str) -> None:
    config = config_of("upernet", model)
    assert config.model.backbone.name == model and config.model.backbone.drop_path_rate == 0.3
    width = 128 if model.endswith("base") else 96
    assert config.model.decode_head.in_channels == [width, 2 * width, 4 * width, 8 * width]
    assert config.model.auxiliary_head.in_channels == 4 * width
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 6e-5, "betas": (0.9, 0.999), "weight_decay": 0.01}
    warm, poly = config.param_scheduler
    assert (warm.type, warm.end) == ("LinearLR", 1500)
    assert (poly.type, poly.power, poly.eta_min, poly.begin, poly.end) == ("PolyLR", 1.0, 0.0, 0, 160000)
    assert config.train_dataloader.batch_size * 8 == 16 and config.train_cfg.max_iters == 160000
    crop = next(step for step in config.train_dataloader.dataset.pipeline if step.type == "RandomCrop")
    assert tuple(crop.crop_size) == (512, 512)


def test_the_rate_on_ade20k_is_swins_at_every_iteration() -> None:
    """Swin's poly policy with linear warm-up, from its own formula: the decay runs under the warm-up, too."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=6e-5)
    schedules = [
        PARAM_SCHEDULERS.build({**entry, "optimizer": optimizer})
        for entry in config_of("upernet", "swin_tiny").param_scheduler
    ]
    for step in range(3000):
        decayed = 6e-5 * (1 - step / 160000)
        warm = decayed * (1 - (1 - step / 1500) * (1 - 1e-6)) if step < 1500 else decayed
        assert optimizer.param_groups[0]["lr"] == pytest.approx(warm, rel=2e-3), step
        optimizer.step()
        for schedule in schedules:
            schedule.step()


@pytest.mark.parametrize(("kind", "last", "milestones"), [("cascade", 500, (27, 33)), ("mask", 1000, (8, 11))])
def test_the_rate_on_coco_is_swins(kind: str, last: int, milestones: tuple[int, int]) -> None:
    """Linear from a thousandth to 1e-4 at the last iteration of the warm-up, a tenth of that from each milestone on."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    warm, steps = (
        PARAM_SCHEDULERS.build({**entry, "optimizer": optimizer})
        for entry in config_of(kind, "dw_conv_tiny").param_scheduler
    )
    found = {}
    for iteration in range(last + 1):
        found[iteration] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        warm.step()
    assert [found[at] for at in (0, last // 2, last)] == pytest.approx([1e-7, 5e-5, 1e-4], rel=5e-3)
    for epoch in range(milestones[1] + 1):
        tenths = sum(epoch >= milestone for milestone in milestones)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.1**tenths), epoch
        steps.step()


def test_footnote_6_differs_in_its_last_learning_rate_alone() -> None:
    name = "upernet_dw-conv-base_160k_ade20k-512x512"
    plain = Config.fromfile(ROOT / f"segmentation/configs/{name}.py")
    variant = Config.fromfile(ROOT / f"segmentation/configs/{name}_min-lr-1e-6.py")
    assert variant.param_scheduler[1].pop("eta_min") == 1e-6 and variant.param_scheduler[1].pop("begin") == 1500
    plain.param_scheduler[1].pop("eta_min")
    plain.param_scheduler[1].pop("begin")
    assert variant.to_dict() == plain.to_dict()


def test_multi_scale_testing_resizes_the_short_side() -> None:
    config = config_of("upernet", "dw_conv_tiny")
    resizes = config.tta_pipeline[1].transforms[0]
    assert [tuple(step.scale) for step in resizes] == [
        (int(2048 * r), int(512 * r)) for r in (0.5, 0.75, 1, 1.25, 1.5, 1.75)
    ]
    assert all(step.type == "Resize" and step.keep_ratio for step in resizes)


def test_multi_scale_testing_is_of_the_picture_and_its_mirror_image() -> None:
    """And of ADE20K's labels, whose 0 is no class."""
    augment = config_of("upernet", "dw_conv_tiny").tta_pipeline[1]
    _, flips, (labels,), (packing,) = augment.transforms
    assert augment.type == "TestTimeAug" and packing.type == "PackSegInputs"
    assert flips == [{"type": "RandomFlip", "prob": prob, "direction": "horizontal"} for prob in (0.0, 1.0)]
    assert labels == {"type": "LoadAnnotations", "reduce_zero_label": True}


def test_multi_scale_testing_averages_the_models_answers_over_its_own_pipeline() -> None:
    config, plain = config_of("upernet", "dw_conv_tiny"), config_of("upernet", "dw_conv_tiny")
    set_multi_scale(config)
    assert [step.type for step in config.test_dataloader.dataset.pipeline] == ["LoadImageFromFile", "TestTimeAug"]
    assert config.model.type == "SegTTAModel" and config.model.module == plain.model


@pytest.mark.parametrize(
    "kind,family",
    [*itertools.product(("cascade", "upernet"), ("swin", "dw_conv", "d_dw_conv", "i_dynamic")), ("mask", "dw_conv")],
)
def test_weight_decay_rules_of_each_family(kind: str, family: str) -> None:
    """Free of decay: LN and output norms, and in Swin the position tables; the authors' BNs inside blocks decay."""
    config = config_of(kind, f"{family}_tiny")
    model = nn.Module()
    with torch.device("cpu"):
        model.backbone = ZooBackbone(f"{family}_nano")
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        inside = "blocks" in parts
        free = ("norm" in name and (family == "swin" or not inside)) or "relative_position_bias_table" in name
        assert (decay[id(parameter)] == 0.0) == free, name
        if not free:
            assert decay[id(parameter)] == config.optim_wrapper.optimizer.weight_decay
