"""Dense backbones start from released weights by the model's name; a path stays a path."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from engine.dense.arguments import load_mm_config
from engine.dense.launch import _set_pretrained
from engine.dense.weights import load_model, load_start
from models.checkpoint import convert_state
from models.errors import UserError
from models.mm import ZooBackbone
from models.released import RELEASES
from tests.released_weights import NANO, save_as_released

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
DETECTION = str(ROOT / "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py")
SEGMENTATION = str(ROOT / "segmentation/configs/upernet_dw-conv-nano_scenes.py")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A nano model as one more release, on a mirror; its weights under this project's names."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path))
    monkeypatch.setitem(RELEASES, (NANO.model, NANO.task), NANO)
    return convert_state(save_as_released(tmp_path / NANO.file))


def assert_starts_from(backbone: ZooBackbone, weights: dict[str, torch.Tensor]) -> None:
    own = backbone.state_dict()
    body = {key for key in weights if key.startswith(("stages.", "patch_embed."))}
    assert body == {key for key in own if key.startswith(("stages.", "patch_embed."))}
    assert all(torch.equal(own[key], weights[key]) for key in body)


def pretrained(checkpoint: str) -> dict[str, str]:
    return {"type": "Pretrained", "checkpoint": checkpoint}


def test_a_name_and_a_path(weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in ("dw_conv_nano", str(tmp_path / NANO.file)):
        backbone = ZooBackbone("dw_conv_nano", init_cfg=pretrained(start))
        backbone.init_weights()
        assert_starts_from(backbone, weights)
    monkeypatch.chdir(tmp_path)
    Path("dw_conv_nano").write_text("a file of this name is meant as a file")
    with pytest.raises(UserError, match=r"init_cfg.checkpoint dw_conv_nano: .*cannot be read as weights"):
        ZooBackbone("dw_conv_nano", init_cfg=pretrained("dw_conv_nano")).init_weights()


@pytest.mark.parametrize("config", [DETECTION, SEGMENTATION], ids=["detection", "segmentation"])
def test_the_option_of_a_training(config: str, weights, tmp_path: Path) -> None:
    """`--pretrained NAME`: fetched before the training begins, and in the backbone that the library then builds."""
    changed = load_mm_config(config, {})
    _set_pretrained(changed, "dw_conv_nano")
    assert (tmp_path / "torch/hub/checkpoints" / NANO.file).is_file()
    backbone = MODELS.build(changed.model.backbone)
    backbone.init_weights()
    assert_starts_from(backbone, weights)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("i_dynamic_tiny", "i_dynamic_tiny: no weights of I-Dynamic were ever released"),
        ("dw_conv_tni", "init_cfg.checkpoint dw_conv_tni: no such file; .*released ones by the model's name"),
    ],
)
def test_what_cannot_be_started_from(given: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        _set_pretrained(load_mm_config(DETECTION, {}), given)


def test_weights_of_another_model_say_so(weights, tmp_path: Path) -> None:
    save_as_released(tmp_path / "swin.pth", "swin")
    words = "swin.pth: .*the weights are of swin_nano, the model is dw_conv_nano"
    with pytest.raises(UserError, match=words):
        ZooBackbone("dw_conv_nano", init_cfg=pretrained(str(tmp_path / "swin.pth"))).init_weights()


def test_a_whole_model_around_another_backbone_says_so(tmp_path: Path) -> None:
    """A detector of Swin for a config of DW-Conv: what its backbone is of is the first thing to know."""
    state = {f"backbone.{key}": value for key, value in ZooBackbone("swin_nano").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    model = torch.nn.Module()
    model.backbone = ZooBackbone("dw_conv_nano")
    for load in (load_model, load_start):
        with pytest.raises(UserError, match=r"detector.pth.*the weights are of swin_nano, the model is dw_conv_nano$"):
            load(model, tmp_path / "detector.pth")
