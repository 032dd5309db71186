"""Files say what they are of: other people's models are refused by name, weights of another model of ours are told."""

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from engine.weights import read_classes, save_weights
from models import create_model
from models.checkpoint import convert_state, load_pretrained, read_for
from models.errors import UserError
from models.recognise import describe, foreign_model, zoo_model
from tests.models.oracle import make_state
from tests.reference_data import REFERENCE
from tools import convert_checkpoint


def convert(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", str(source), str(out)])
    return convert_checkpoint.main()


def test_a_converted_file_keeps_its_classes_and_wants_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "mine.safetensors", tmp_path / "out.safetensors"
    save_weights(source, create_model("dw_conv_nano", num_classes=2).state_dict(), {"classes": ["cat", "dog"]})
    assert convert(monkeypatch, source, out) == 0
    assert read_classes(out) == ["cat", "dog"]
    assert convert(monkeypatch, source, tmp_path / "nowhere" / "out.safetensors") != 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("convnext_atto", "a ConvNeXt"),
        ("resnet18", "a ResNet"),
        ("vit_tiny_patch16_224", "a ViT or DeiT"),
        ("mobilenetv3_small_050", "an EfficientNet or MobileNet"),
        ("poolformer_s12", "a MetaFormer"),
    ],
)
def test_models_of_timm_are_refused_by_name(
    name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    save_file({key: torch.zeros(1) for key in state}, source)  # names alone tell
    assert convert(monkeypatch, source, out) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(source) in error and error.endswith(f"the file is of {family}\n")
    assert not out.exists()


@pytest.mark.parametrize("model", ["swin_t", "convnext_tiny", "mobilenet_v2"])
def test_names_of_torchvision(model: str) -> None:
    with torch.device("meta"):
        keys = torchvision.models.get_model(model).state_dict()
    families = {"swin_t": "a Swin of torchvision", "convnext_tiny": "a ConvNeXt"}
    assert foreign_model(keys) == families.get(model, "an EfficientNet or MobileNet")


def test_a_file_without_any_block_is_refused(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "head.safetensors", tmp_path / "out.safetensors"
    save_file({"norm.weight": torch.ones(4), "head.weight": torch.ones(3, 4)}, source)
    assert convert(monkeypatch, source, out) == 2 and not out.exists()
    assert "holds no block of any model" in capsys.readouterr().err


def test_what_is_converted_is_named(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    for window, what in ((7, "d_dw_conv_nano"), (5, "a variant of d_dw_conv_nano")):
        save_file(make_state("d_dw_conv", 32, (1, 1, 2, 1), window=window), source)
        assert convert(monkeypatch, source, out) == 0
        assert capsys.readouterr().out.endswith(f"they are of {what}\n") and load_file(out)


@pytest.mark.parametrize("family", ["swin", "dw_conv", "d_dw_conv", "i_dynamic"])
def test_each_family_and_its_variants(family: str) -> None:
    with torch.device("meta"):
        for classes in (0, 7):
            assert zoo_model(create_model(f"{family}_nano", num_classes=classes).state_dict()) == f"{family}_nano"
        variant = create_model(f"{family}_nano", depths=(1, 1, 3, 1), se=True).state_dict()
        assert zoo_model(variant) is None and describe(variant) == f"a variant of {family}_nano"
        assert describe(create_model(f"{family}_nano", embed_dim=64).state_dict()) is None


@pytest.mark.parametrize("file", ["dynamic_dwnet_tiny", "downstream_dynamic_dwnet_tiny"])
def test_the_authors_files_are_known(file: str) -> None:
    """Full size, of a classifier and of a detector's backbone."""
    shapes = json.loads((REFERENCE / "checkpoint_keys" / f"{file}.json").read_text())
    assert zoo_model(convert_state({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})) == (
        "d_dw_conv_tiny"
    )


@pytest.mark.parametrize("overrides", [{}, {"embed_dim": 64}])
def test_weights_of_another_model_say_whose_they_are(overrides) -> None:
    """Other names, and the same names in another size."""
    state = convert_state(make_state("dw_conv", 32, (1, 1, 2, 1)))
    target = create_model("dw_conv_nano" if overrides else "swin_nano", num_classes=10, **overrides)
    named = "the weights are of dw_conv_nano" + ("" if overrides else ", the model is swin_nano")
    with pytest.raises(UserError, match=f"{named}$"):
        load_pretrained(target, state)


def test_models_beside_the_backbone_load_their_own_names(tmp_path: Path) -> None:
    """A run of a comparison model keeps its weights under names that are no translation's business."""
    for name in ("timm:resnet18", "svt_nano_dw_conv"):
        first, second = (create_model(name, num_classes=3) for _ in range(2))
        save_file(first.state_dict(), tmp_path / "last.safetensors")
        load_pretrained(second, read_for(second, tmp_path / "last.safetensors"))
        pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
