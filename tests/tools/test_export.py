"""tools/export.py: every format is read by its own library and gives PyTorch's logits, or nothing is left."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

import models
from engine.config import as_yaml, load_config, to_dict
from engine.weights import save_weights
from models.errors import UserError
from tools import export as command
from tools.exports import formats, verified
from tools.exports.source import read_source

CLASSES = ["cat", "dog", "three word name"]
FAMILIES = ["swin", "dw_conv", "d_dw_conv", "i_dynamic"]


def small(family: str) -> dict[str, Any]:
    """The `model` section of one stage; Swin's has a block with shifted windows."""
    mixer_args = {"groups": 4} if family == "i_dynamic" else {}
    shape = {"depths": [2 if family == "swin" else 1], "num_heads": [2], "embed_dim": 16, "window_size": 3}
    return {"name": f"{family}_nano", "num_classes": 3, "img_size": 64, "mixer_args": mixer_args, **shape}


def make_run(folder: Path, family: str, **data: Any) -> nn.Module:
    """A run folder with made weights, whose norms are not the identity; the model in evaluation mode."""
    folder.mkdir(parents=True)
    config = {"model": small(family), "data": {"mean": [0.4, 0.5, 0.6], "std": [0.3], "crop_pct": 0.9, **data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"output": str(folder)}))
    resolved = load_config(folder / "config.yaml")
    (folder / "config.yaml").write_text(as_yaml(resolved))
    torch.manual_seed(0)
    model = models.build_model(resolved.model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.8, 0.5)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(model.head.weight, 0, 0.5)
    about = {"model": to_dict(resolved)["model"], "classes": CLASSES}
    save_weights(folder / "best.safetensors", dict(model.state_dict()), about)
    return model


def run(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def read_by_onnxruntime(path: Path) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images.numpy()})[0]


def read_by_openvino(path: Path) -> Any:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images.numpy())[0]


READERS = {
    "onnx": read_by_onnxruntime,
    "openvino": read_by_openvino,
    "pt2": lambda path: torch.export.load(path).module(),
    "timm": lambda path: timm.create_model(f"local-dir:{path}", pretrained=True).eval(),
}


def kept_by_onnx(path: Path) -> dict[str, Any]:
    return parsed({entry.key: entry.value for entry in onnx.load(path).metadata_props})


def kept_by_openvino(path: Path) -> dict[str, Any]:
    model = openvino.Core().read_model(path)
    return parsed({key: model.get_rt_info(["localmixer", key]).astype(str) for key in KEYS})


def kept_by_program(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("about.json")]
        return parsed(json.loads(archive.read(name)))


def kept_by_timm(path: Path) -> dict[str, Any]:
    config = json.loads((path / "config.json").read_text())
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{path}"))
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}
    assert found["input_size"][0] == 3
    return found | {
        "model": config["architecture"],
        "classes": config["label_names"],
        "input_size": found["input_size"][1:],
    }


def parsed(texts: dict[str, str]) -> dict[str, Any]:
    assert texts.keys() >= {"input", *KEYS}
    return {key: value if key == "model" else json.loads(value) for key, value in texts.items()}


KEYS = ["input", "input_size", "mean", "std", "interpolation", "crop_mode", "crop_pct", "classes", "model"]
KEPT = {"onnx": kept_by_onnx, "openvino": kept_by_openvino, "pt2": kept_by_program, "timm": kept_by_timm}


def close(got: Any, expected: Tensor) -> None:
    np.testing.assert_allclose(np.asarray(got), expected.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("to", "family"),
    [
        *(("timm", family) for family in FAMILIES),
        ("onnx", "dw_conv"),
        ("openvino", "swin"),
        *(
            pytest.param(to, family, marks=pytest.mark.slow)
            for to in ("onnx", "openvino", "pt2")
            for family in FAMILIES
        ),
    ],
)
@torch.no_grad()
def test_every_family_in_every_format(to: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read by the format's own library, at batches that the command did not try and at other sizes where it says so;
    with the names and numbers that the run had.
    """
    model = make_run(tmp_path / "run", family)
    output = tmp_path / "out" / f"model{formats.FORMATS[to].suffix}"
    assert run(tmp_path / "run", "--to", to, "--output", output) == 0
    printed = capsys.readouterr().out
    assert f"{family}_nano, largest difference from PyTorch" in printed and "1x3x64x64" in printed
    any_size = family != "swin"
    assert ("3x3x71x160" in printed) == any_size  # which the command says that it tried
    loaded, kept = READERS[to](output), KEPT[to](output)
    for shape in [(4, 3, 64, 64)] + ([(3, 3, 75, 104)] if any_size or to == "timm" else []):
        images = torch.randn(shape)
        close(loaded(images), model(images))
    left = {path.name for path in output.parent.iterdir()}
    assert left == {output.name} | ({"model.bin"} if to == "openvino" else set())
    assert kept["model"] == f"{family}_nano" and kept["classes"] == CLASSES and kept["input_size"] == [64, 64]
    assert kept["mean"] == [0.4, 0.5, 0.6] and kept["std"] == [0.3, 0.3, 0.3]
    assert (kept["crop_pct"], kept["crop_mode"], kept["interpolation"]) == (0.9, "center", "bicubic")


@torch.no_grad()
def test_a_program_runs_where_the_project_is_not(tmp_path: Path) -> None:
    """A new process of Python that cannot import it, at a batch and a size that were not recorded."""
    model = make_run(tmp_path / "run", "d_dw_conv")
    assert run(tmp_path / "run", "--to", "pt2", "--output", tmp_path / "m.pt2") == 0
    assert KEPT["pt2"](tmp_path / "m.pt2")["classes"] == CLASSES
    images = torch.randn(3, 3, 71, 100)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; m = torch.export.load('m.pt2').module(); torch.save(m(torch.load('images.pt')), 'out.pt')"
    )
    code += "; assert 'models' not in sys.modules and 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, capture_output=True)
    close(torch.load(tmp_path / "out.pt"), model(images))


def test_a_wrong_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make_run(tmp_path / "run", "dw_conv")
    honest = formats.FORMATS["timm"]
    wrong = {
        "differs by": lambda logits: logits * 1.01,
        "not (1, 3)": lambda logits: logits[:, :2],
        "differs by nan": lambda logits: logits * float("nan"),
    }
    for message, spoil in wrong.items():

        def load(path: Path, spoil: Any = spoil) -> Any:
            run = honest.load(path)
            return lambda images: spoil(run(images))

        broken = formats.Format("", (), honest.write, load, honest.takes_any_size)
        monkeypatch.setitem(formats.FORMATS, "timm", broken)
        assert run(tmp_path / "run", "--to", "timm", "--output", tmp_path / "out" / "m") == 2
        assert message in capsys.readouterr().err
        assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = make_run(tmp_path / "run", "dw_conv")
    model.head.weight.data[0] = torch.inf

    def same(images: Tensor) -> Tensor:
        return model(images)

    with pytest.raises(UserError, match="logits that are not finite"):
        verified.largest_difference(model, same, [torch.randn(1, 3, 64, 64)])


def test_a_named_model_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of this project by what the file says of itself; of others by the shapes, with names from a list."""
    model = make_run(tmp_path / "run", "dw_conv")
    kept = tmp_path / "run" / "best.safetensors"
    assert run("dw_conv_nano", "--to", "timm", "--weights", kept, "--output", tmp_path / "a") == 0
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(READERS["timm"](tmp_path / "a")(images), model(images))
    plain = models.create_model("dw_conv_nano", num_classes=5, in_chans=1)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    source = read_source("dw_conv_nano", tmp_path / "plain.pth", 96, None)
    assert (source.model.num_classes, source.channels, source.size, source.classes) == (5, 1, (96, 96), None)
    (tmp_path / "names.txt").write_text("a\nb\n")
    for arguments, message in (
        (("swin_nano", "--weights", kept), "this file is of dw_conv_nano, not of swin_nano"),
        (("i_dynamic_nano", "--weights", tmp_path / "plain.pth"), "plain.pth: the checkpoint does not fit the model"),
        (("dw_conv_nano", "--weights", tmp_path / "plain.pth", "--classes", tmp_path / "names.txt"), "2 names, the"),
        (("i_dynamic_tiny",), "i_dynamic_tiny"),
        (("dw_conv_nan",), "the nearest valid one is dw_conv_nano"),
        ((tmp_path,), "holds no config.yaml"),
        ((tmp_path / "run", "--output", tmp_path / "a"), "exists; remove it"),
    ):
        assert run(*arguments, "--to", "timm") == 2
        assert message in capsys.readouterr().err


def test_small_pictures_and_other_sizes(tmp_path: Path) -> None:
    """28-pixel pictures are cut or padded, which timm calls a centre crop of all; a program keeps their size."""
    make_run(tmp_path / "run", "dw_conv")
    small, large = (read_source(str(tmp_path / "run"), None, size, None) for size in (28, 96))
    assert small.size == (28, 28) and large.size == (96, 96)
    assert small.preparation["crop_pct"] == 1.0 and large.preparation["crop_pct"] == 0.9
    pt2 = formats.FORMATS["pt2"]
    assert not pt2.takes_any_size(small) and pt2.takes_any_size(large)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    make_run(tmp_path / "run", "dw_conv")
    monkeypatch.setattr(verified, "find_spec", lambda name: None if name == "openvino" else object())
    assert run(tmp_path / "run", "--to", "openvino", "--output", tmp_path / "m.xml") == 2
    assert "openvino not installed; pip install openvino" in capsys.readouterr().err
