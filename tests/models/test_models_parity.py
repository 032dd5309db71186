"""Converted weights give the numbers of the authors' models: against the oracle, their miniatures, and timm."""

import json
from pathlib import Path
from typing import Any

import oracle
import pytest
import timm
import torch
from oracle import forward, make_state
from reference_data import REFERENCE
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import create_model
from models.backbone import LocalNet
from models.checkpoint import convert_state, load_pretrained, read_weights
from models.errors import UserError
from tools import convert_checkpoint

TOLERANCE = 1e-5
# One miniature of each family: the mixer, the stage's heads or groups, and the oracle's arguments.
MINIS: dict[str, dict[str, Any]] = {
    "swin_w7": {"kind": "swin", "width": 24, "depths": (2, 2), "heads": (2, 4), "window": 7, "img_size": 56},
    "swin_w4": {"kind": "swin", "width": 12, "depths": (1, 2, 2, 1), "heads": (1, 2, 4, 8), "window": 4},
    "dw_conv": {"kind": "dw_conv", "width": 12, "depths": (1, 2, 2, 1)},
    "d_dw_conv": {"kind": "d_dw_conv", "width": 12, "depths": (1, 2, 2, 1)},
    "i_dynamic": {"kind": "i_dynamic", "width": 12, "depths": (1, 2, 2, 1)},
}
NAMES = {"swin_w7": "swin_mini_w7", "swin_w4": "swin_mini_w4", "dw_conv": "dwnet_mini",
         "d_dw_conv": "dynamic_dwnet_mini", "i_dynamic": "i_dynamic_dwnet_mini"}  # fmt: skip


def mini_model(kind: str, width: int, depths: tuple[int, ...], *, heads: tuple[int, ...] = (), window: int = 7,
               img_size: int = 64) -> LocalNet:  # fmt: skip
    """The zoo's model for one of the miniatures."""
    groups = tuple(width * 2**stage // 4 for stage in range(len(depths)))
    return LocalNet(
        mixer="window_attention" if kind == "swin" else kind,
        mixer_args={"groups": groups} if kind == "i_dynamic" else None,
        embed_dim=width,
        depths=depths,
        num_heads=heads or (1,) * len(depths),
        window_size=window,
        img_size=img_size,
        num_classes=10,
    )


def assert_agrees(model: LocalNet, image: Tensor, logits: Tensor, maps: list[Tensor], train_logits: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        ours = model.forward_intermediates(image, intermediates_only=True)
        assert (model(image) - logits).abs().max() < TOLERANCE
        for our, their in zip(ours, maps, strict=True):
            assert (our - their).abs().max() < TOLERANCE
        assert (model.train()(image) - train_logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", MINIS)
def test_converted_weights_agree_with_the_oracle(name: str) -> None:
    arguments = dict(MINIS[name])
    state = make_state(**arguments)
    model = mini_model(**arguments)
    load_pretrained(model, convert_state(state))
    size = arguments.get("img_size", 64)
    image = torch.randn(3, 3, size, size)
    call = {"kind": arguments["kind"], "heads": arguments.get("heads", ()), "window": arguments.get("window", 7)}
    double = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    logits, maps = forward(double, image.double(), **call)
    train_logits, _ = forward(double, image.double(), training=True, **call)
    assert_agrees(model.double(), image.double(), logits, maps, train_logits)


def test_a_static_model_in_place_of_the_dynamic_one_is_caught() -> None:
    """The fault of the authors' release: its head overwrites the dynamic convolution by the static one."""
    state = make_state("d_dw_conv", 12, (1, 2, 2, 1))
    static = mini_model("dw_conv", 12, (1, 2, 2, 1))
    with pytest.raises(UserError, match=r"missing, first .*op\.weight; .*generator"):
        load_pretrained(static, convert_state(state))


@pytest.mark.parametrize("name", MINIS)
def test_authors_miniatures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command line, as a user converts; the oracle is held against the same numbers."""
    source, out = REFERENCE / f"{NAMES[name]}.safetensors", tmp_path / "out.safetensors"
    monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", str(source), str(out)])
    assert convert_checkpoint.main() == 0
    arguments = dict(MINIS[name])
    model = mini_model(**arguments)
    load_pretrained(model, read_weights(out))
    tensors = load_file(source)
    maps = [tensors[f"io.stage{stage}"] for stage in range(len(arguments["depths"]))]
    assert_agrees(model, tensors["io.input"], tensors["io.logits"], maps, tensors["io.train_logits"])
    call = {"kind": arguments["kind"], "heads": arguments.get("heads", ()), "window": arguments.get("window", 7)}
    logits, _ = forward(read_weights(source), tensors["io.input"], **call)
    assert (logits - tensors["io.logits"]).abs().max() < TOLERANCE


SIZES = {"tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)), "base": (128, (2, 2, 18, 2), (4, 8, 16, 32))}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["swin", "dw_conv", "d_dw_conv", "i_dynamic"])
def test_full_size_key_lists(family: str, size: str) -> None:
    """Every key of a full-size checkpoint under the authors' names is used once and none is missing."""
    width, depths, heads = SIZES[size]
    lists = [_shapes_by_stage(family, width, depths, heads)]
    authors = {"swin": "swin", "dw_conv": "dwnet", "d_dw_conv": "dynamic_dwnet", "i_dynamic": "i_dynamic_dwnet"}
    for prefix in ("", "downstream_") if family in ("dw_conv", "d_dw_conv") else ("",):
        path = REFERENCE / "checkpoint_keys" / f"{prefix}{authors[family]}_{size}.json"
        lists.append(json.loads(path.read_text()))
    with torch.device("meta"):
        own = {key: value.shape for key, value in create_model(f"{family}_{size}").state_dict().items()}
    for keys in lists:
        state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
        converted = {key: value.shape for key, value in convert_state(state).items()}
        derived = [key for key in keys if key.endswith(("relative_position_index", "attn_mask"))]
        assert len(converted) == len(keys) - len(derived)
        dense = {key for key in converted if key.startswith(("norm0", "norm1", "norm2", "norm3"))}
        ends = {"norm.weight", "norm.bias", "head.weight", "head.bias"} if dense else set()
        assert {key: converted[key] for key in converted.keys() - dense} == {k: own[k] for k in own.keys() - ends}
        if not dense:
            assert dict(keys) == dict(lists[0]), "the oracle's key list is not the authors'"


def _add_shape(maker: oracle.Maker, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> None:
    maker.state[name] = torch.empty(shape, device="meta")


def _shapes_by_stage(family: str, width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> dict[str, list[int]]:
    """The oracle's keys at full size; I-Dynamic has 32 groups, so another number of channels per group each stage."""
    shapes: dict[str, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:  # half a billion numbers would be drawn for their shapes alone
        patch.setattr(oracle.Maker, "add", _add_shape)
        state = make_state(family, width, depths, classes=1000, heads=heads, img_size=224, per_group=width // 32)
    for key, value in state.items():
        shape = list(value.shape)
        if family == "i_dynamic" and ".conv2.0." in key:
            shape[0] = 49 * 32
        shapes[key] = shape
    return shapes


def test_timm_swin_with_copied_weights() -> None:
    theirs = timm.create_model("swin_tiny_patch4_window7_224").eval()
    ours = create_model("swin_tiny").eval()
    load_pretrained(ours, convert_state(theirs.state_dict()))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (ours(image) - theirs(image)).abs().max() < TOLERANCE


def test_converter_names_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    state = make_state("dw_conv", 12, (1, 1)) | {"layers.0.blocks.0.attn2conv.surprise": torch.zeros(1)}
    save_file(state, tmp_path / "in.safetensors")
    for source, words in ((tmp_path / "in.safetensors", "surprise"), (tmp_path / "none.pth", "no such checkpoint")):
        monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", str(source), str(tmp_path / "out.safetensors")])
        assert convert_checkpoint.main() == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_own_names_pass_through() -> None:
    state = create_model("dw_conv_nano").state_dict()
    assert convert_state(state).keys() == state.keys()
