"""The one wrapper: the zoo's values in both libraries, the authors' dense behaviour, weights, freezing."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from mmdet.registry import MODELS as DETECTION
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS as SEGMENTATION
from reference_data import REFERENCE
from safetensors.torch import load_file, save_file
from timm.optim import param_groups_layer_decay
from torch import nn

from engine.dense.arguments import set_neck_levels
from engine.dense.weights import load_model
from models import create_model
from models.checkpoint import convert_state, read_weights
from models.errors import UserError
from models.mixers.window_attention import relative_position_index
from models.mm import LayerDecayConstructor, ZooBackbone

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]

LIBRARIES = {"mmdet": DETECTION, "mmseg": SEGMENTATION}


def randomise(model: nn.Module) -> nn.Module:
    """Random BN statistics and position tables, so that every buffer and parameter matters."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim < 3:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.4 + (0.8 if "var" in name else -0.2))
    return model.eval()


def test_same_weights_give_same_maps_in_the_zoo_and_both_libraries(mixer_family: str) -> None:
    zoo = randomise(create_model(f"{mixer_family}_nano", num_classes=0))
    state = zoo.state_dict()
    image = torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = zoo.forward_intermediates(image, intermediates_only=True)
        for registry in LIBRARIES.values():
            config = {"type": "ZooBackbone", "name": f"{mixer_family}_nano", "out_norm": "none", "window_pad": False}
            backbone = registry.build(config)
            backbone.load_zoo_state(state)
            maps = backbone.eval()(image)
            assert [tuple(m.shape[1:]) for m in maps] == [(32, 19, 26), (64, 10, 13), (128, 5, 7), (256, 3, 4)]
            for ours, theirs in zip(maps, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name,model", [("dwnet_det_mini", "dw_conv"), ("dynamic_dwnet_det_mini", "d_dw_conv")])
def test_equal_to_the_authors_dense_backbones(name: str, model: str) -> None:
    tensors = load_file(REFERENCE / f"{name}.safetensors")
    state = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    config = json.loads((REFERENCE / f"{name}.json").read_text())["config"]
    backbone = ZooBackbone(f"{model}_nano", embed_dim=config["embed_dim"], depths=tuple(config["depths"]))
    backbone.load_zoo_state(convert_state(state))
    with torch.no_grad():
        maps = backbone.eval()(tensors["io.input"])
    for index, ours in enumerate(maps):
        torch.testing.assert_close(ours, tensors[f"io.out{index}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind,size", [(k, s) for k in ("dwnet", "dynamic_dwnet") for s in ("tiny", "base")])
def test_released_dense_checkpoints_fit_key_by_key(kind: str, size: str) -> None:
    shapes = json.loads((REFERENCE / "checkpoint_keys" / f"downstream_{kind}_{size}.json").read_text())
    converted = convert_state({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert len(converted) == len(shapes)
    with torch.device("meta"):
        own = ZooBackbone(f"{'d_dw_conv' if 'dynamic' in kind else 'dw_conv'}_{size}").state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in own.items()}


def test_window_padding_follows_the_authors() -> None:
    """On for DW and D-DW, off for I-Dynamic; it changes odd sizes and nothing where all stages hold whole windows."""
    for family in ("dw_conv", "d_dw_conv", "i_dynamic"):
        backbone = ZooBackbone(f"{family}_nano")
        mixer = backbone.stages[0].blocks[0].mixer
        assert mixer.window_pad == (family in ("dw_conv", "d_dw_conv"))
    torch.manual_seed(0)
    padded = randomise(ZooBackbone("dw_conv_nano"))
    plain = ZooBackbone("dw_conv_nano", window_pad=False).eval()
    plain.load_state_dict(padded.state_dict())
    for size, same in (((224, 448), True), ((70, 101), False)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            pairs = zip(padded(image), plain(image), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs) == same


def test_loads_a_classifier_and_refuses_leftovers(tmp_path: Path) -> None:
    zoo = randomise(create_model("i_dynamic_nano", num_classes=10))
    file = tmp_path / "classifier.safetensors"
    save_file(zoo.state_dict(), file)
    init = {"type": "Pretrained", "checkpoint": str(file)}
    backbone = ZooBackbone("i_dynamic_nano", init_cfg=init)
    backbone.init_weights()
    own = backbone.state_dict()
    for key, value in zoo.state_dict().items():
        if key.startswith(("stages", "patch_embed")):
            assert torch.equal(own[key], value)
    assert torch.equal(own["norm2.weight"], torch.ones(128))
    for change, word in ((lambda s: s.update(extra=torch.ones(1)), "unexpected"), (lambda s: s.popitem(), "missing")):
        state = {key: value for key, value in zoo.state_dict().items() if not key.startswith(("head", "norm."))}
        change(state)
        with pytest.raises(UserError, match=word):
            ZooBackbone("i_dynamic_nano").load_zoo_state(state)


def test_a_dense_checkpoint_of_the_library_loads_again(tmp_path: Path) -> None:
    """The weights in a detector's checkpoint, under `state_dict` and `backbone.`, come back with their output norms."""
    first = randomise(ZooBackbone("dw_conv_nano"))
    file = tmp_path / "detector.pth"
    state = {f"backbone.{key}": value for key, value in first.state_dict().items()} | {"neck.x": torch.ones(1)}
    torch.save({"state_dict": state, "meta": {}}, file)
    second = ZooBackbone("dw_conv_nano")
    second.load_zoo_state(convert_state(read_weights(file)))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_frozen_stages_keep_weights_and_statistics() -> None:
    backbone = ZooBackbone("dw_conv_nano", frozen_stages=2)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    sum(m.mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = ("patch_embed.", "stages.0.", "stages.1.", "norm0.", "norm1.")
    for key, value in backbone.named_parameters():
        assert (value.grad is None) == key.startswith(frozen), key
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(frozen) for key in changed)


def test_checkpointing_changes_nothing_and_every_parameter_learns(mixer_family: str) -> None:
    """Gradients and batch statistics, to the last bit."""
    found = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = ZooBackbone(f"{mixer_family}_nano", with_cp=with_cp).train()
        sum((m * m).mean() for m in backbone(torch.randn(2, 3, 64, 96))).backward()
        gradients = {key: value.grad for key, value in backbone.named_parameters()}
        assert all(value is not None and value.abs().sum() > 0 for value in gradients.values())
        found.append(gradients | dict(backbone.named_buffers()))
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_layer_decay_gives_timms_rates(mixer_family: str) -> None:
    """The oracle is timm's own grouping of the classifier, whose last norm stands for the output norms."""
    name = f"{mixer_family}_nano"
    zoo = create_model(name, num_classes=1)
    timms = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(zoo, layer_decay=0.5)
        for parameter in group["params"]
    }
    expected = {key: timms[id(parameter)] for key, parameter in zoo.named_parameters()}
    detector = nn.Module()
    detector.backbone, detector.neck = ZooBackbone(name), nn.Conv2d(1, 1, 1)
    config = {"optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.05}, "type": "OptimWrapper"}
    build = LayerDecayConstructor(config, {"layer_decay": 0.5, "custom_keys": {"norm": {"decay_mult": 0.0}}})
    rates = {id(p): group["lr"] for group in build(detector).optimizer.param_groups for p in group["params"]}
    for key, parameter in detector.backbone.named_parameters():
        scale = expected["norm.weight"] if re.match(r"norm\d", key) else expected[key]
        assert rates[id(parameter)] == pytest.approx(0.1 * scale), key
    assert rates[id(detector.neck.weight)] == 0.1 and min(expected.values()) < 0.02


def test_a_dense_checkpoint_loads_into_a_backbone_that_returns_fewer_maps(tmp_path: Path) -> None:
    whole, part = randomise(ZooBackbone("dw_conv_nano")), ZooBackbone("dw_conv_nano", out_indices=(1, 2, 3)).eval()
    part.load_zoo_state(whole.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(whole(image)[1:], part(image), strict=True))
    detector = nn.Module()
    detector.backbone = part
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in whole.state_dict().items()}}, tmp_path / "a")
    load_model(detector, tmp_path / "a")


def test_a_neck_that_begins_later_leaves_no_norm_without_gradient() -> None:
    config = Config(
        {"model": {"backbone": {"type": "ZooBackbone", "name": "dw_conv_nano"}, "neck": {"start_level": 1}}}
    )
    set_neck_levels(config)
    backbone = ZooBackbone(**{key: value for key, value in config.model.backbone.items() if key != "type"})
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))[1:]).backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []


def test_the_library_turns_synchronised_norms_back_on_one_device() -> None:
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(randomise(ZooBackbone("dw_conv_nano")))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.eval()(image)
        plain = revert_sync_batchnorm(backbone).eval()
        assert not any(isinstance(module, nn.SyncBatchNorm) for module in plain.modules())
        assert all(torch.equal(a, b) for a, b in zip(expected, plain(image), strict=True))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"name": "dw_conv_tinny"}, "dw_conv_tiny"),
        ({"name": "dw_conv_nano", "drop_path": 0.1}, "drop_path_rate"),
        ({"name": "dw_conv_nano", "frozen_stages": 5}, "frozen_stages"),
        ({"name": "dw_conv_nano", "out_indices": (4,)}, "out_indices"),
        ({"name": "timm:resnet18"}, "resnet18"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZooBackbone(**arguments)


def test_the_core_never_imports_the_libraries() -> None:
    code = (
        "import sys, models, models.cost, data, engine, engine.cli, engine.run, engine.evaluate\n"
        "heavy = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'engine.dense')\n"
        "found = [m for m in sys.modules if m in heavy or m.split('.')[0] in heavy]\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_swins_released_dense_names_load() -> None:
    """Swin's own detectors: `layers`, `attn`, merging at the end of a stage, the index tables, and norm0 to norm3."""
    swin = randomise(ZooBackbone("swin_nano"))
    theirs = {}
    for key, value in swin.state_dict().items():
        if match := re.match(r"stages\.(\d)\.downsample\.(.+)", key):
            key = f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
        key = key.replace("stages.", "layers.").replace(".mixer.", ".attn.")
        theirs[key] = value
        if key.endswith("relative_position_bias_table"):
            theirs[key.replace("bias_table", "index")] = relative_position_index(7)
    assert {key.split(".")[0] for key in theirs} == {"patch_embed", "layers", "norm0", "norm1", "norm2", "norm3"}
    other = ZooBackbone("swin_nano").eval()
    other.load_zoo_state(convert_state(theirs))
    image = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(swin(image), other(image), strict=True))


@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_by_both_exporters(mixer_family: str, dynamo: bool, tmp_path: Path) -> None:
    """The maps of a file equal PyTorch's; the height is no multiple of the window, the second block shifts its own."""
    backbone = randomise(
        ZooBackbone(f"{mixer_family}_nano", window_size=3, depths=(2, 1), num_heads=(1, 2), out_indices=(0, 1))
    )
    image = torch.randn(1, 3, 88, 128)
    names = ["map0", "map1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            backbone, (image,), tmp_path / "a.onnx", dynamo=dynamo, verbose=False, opset_version=18,
            input_names=["image"], output_names=names,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        found = session.run(names, {"image": image.numpy()})
    with torch.no_grad():
        for expected, got in zip(backbone(image), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=1e-3)
