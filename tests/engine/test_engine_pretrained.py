"""``model.pretrained``: a training starts from released weights, its classifier's rows by the names of the classes."""

from pathlib import Path

import pytest
import torch
import yaml
from engine_evaluation import evaluate_checkpoint
from PIL import Image

from data.classes import imagenet_classes
from engine.build import initial_file, load_initial, plain_model
from engine.config import Config, load_config, to_dict
from engine.run import train
from engine.runfolder import check_same_run
from models.errors import UserError
from models.released import RELEASES
from tests.released_weights import NANO, save_as_released
from tools.pictures.classifier import Classifier


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A nano model as one more release, on a mirror."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path))
    monkeypatch.setitem(RELEASES, (NANO.model, NANO.task), NANO)
    return save_as_released(tmp_path / NANO.file)


def config_of(tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: dw_conv_nano, pretrained: true}\ndata: {format: mnist5k}\n")
    return load_config(path, [*overrides, f"output={tmp_path / 'run'}"])


def test_rows_of_the_classifier_go_by_imagenets_names(tmp_path: Path, weights) -> None:
    """Synset 7 of ImageNet is the cock, n01514668; 340 the zebra, n02391049; a class of one's own starts anew."""
    config = config_of(tmp_path, "model.num_classes=3")
    model = plain_model(config)
    before = model.head.weight.detach().clone()
    lines = load_initial(model, config, ["n02391049", "mine", "n01514668"])
    for row, number in ((0, 340), (2, 7)):
        assert torch.equal(model.head.weight[row], weights["head.weight"][number])
        assert torch.equal(model.head.bias[row], weights["head.bias"][number])
    assert torch.equal(model.head.weight[1], before[1])
    assert "head: 2 of 3 classes are those of the weights, by name; the others start anew" in lines
    assert torch.equal(model.norm.weight, weights["norm.weight"])


def test_all_of_imagenet_is_taken_whole(tmp_path: Path, weights) -> None:
    config = config_of(tmp_path)
    model = plain_model(config)
    load_initial(model, config, imagenet_classes())
    assert torch.equal(model.head.weight, weights["head.weight"])


def test_other_classes_channels_and_windows_are_adapted_and_said(tmp_path: Path, weights) -> None:
    config = config_of(tmp_path, "model.num_classes=10", "model.in_chans=1", "model.window_size=9")
    model = plain_model(config)
    lines = load_initial(model, config, [str(number) for number in range(10)])
    assert lines[0] == f"weights start from {tmp_path / 'torch/hub/checkpoints/dwnet_nano.pth'}"
    assert "resized patch_embed.proj.weight from 3 to 1 input channels" in lines
    assert "initialised anew: head (1000 classes in the checkpoint, 10 in the model)" in lines
    assert torch.allclose(model.patch_embed.proj.weight, weights["patch_embed.proj.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.init_checkpoint=mine.pth"], "model.pretrained: true, but train.init_checkpoint has mine.pth"),
        (["model.name=i_dynamic_tiny"], "model.pretrained: i_dynamic_tiny: no weights of I-Dynamic were ever released"),
        (["model.se=true"], "model.pretrained: dw_conv_nano with another se: no weights of such a variant"),
        (["model.name=timm:resnet18"], "model.pretrained: timm:resnet18: no released weights"),
    ],
)
def test_what_cannot_be_started_from(tmp_path: Path, weights, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}"):
        initial_file(config_of(tmp_path, *overrides))


def test_a_training_asks_before_it_builds_anything(tmp_path: Path, weights, monkeypatch) -> None:
    """Where nobody answers it ends at once, with the line that says what to do; its data are not even looked for."""
    monkeypatch.setenv("LOCALMIXER_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"model.pretrained: http://127.0.0.1:9/dwnet_nano.pth: .*LOCALMIXER_MIRROR"):
        train(config_of(tmp_path, "data.format=folder", "data.root=/nowhere"))


def test_a_run_of_before_this_key_goes_on(tmp_path: Path) -> None:
    config = config_of(tmp_path, "model.pretrained=false")
    (tmp_path / "run").mkdir()
    old = to_dict(config)
    del old["model"]["pretrained"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(old))
    check_same_run(tmp_path / "run", config)
    with pytest.raises(UserError, match=r"holds a run with model.pretrained = False, now it is True"):
        check_same_run(tmp_path / "run", config_of(tmp_path))


def test_evaluation_and_prediction_by_name(tmp_path: Path, weights) -> None:
    """`--checkpoint NAME`: folders of synsets are ImageNet's classes, and predictions have ImageNet's words."""
    for synset in ("n01514668", "n02391049"):
        (tmp_path / "val" / synset).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "val" / synset / "a.png")
    config = config_of(tmp_path, "data.format=folder", f"data.root={tmp_path}", "data.workers=0", "model.img_size=32")
    found = evaluate_checkpoint(config, Path("dw_conv_nano"))
    assert found is not None and found.images == 2 and found.checkpoint.endswith(NANO.file)
    model = Classifier(str(tmp_path / "run.yaml"), "dw_conv_nano")
    assert "cock" in model.names[7] and "zebra" in model.names[340]
    with pytest.raises(UserError, match=r"^--checkpoint: i_dynamic_tiny: no weights of I-Dynamic were ever released"):
        evaluate_checkpoint(config, Path("i_dynamic_tiny"))
