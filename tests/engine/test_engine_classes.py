"""Class names travel with weights: what is evaluated, predicted and fine-tuned is matched by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from engine_evaluation import evaluate_checkpoint
from PIL import Image
from safetensors.torch import load_file

from data.classes import imagenet_classes
from engine.config import load_config
from engine.weights import head_by_name, read_classes, save_weights
from models import create_model
from models.checkpoint import load_pretrained
from models.errors import UserError
from tools.pictures.classifier import Classifier

NAMES = ["class0", "class1", "class2", "class3"]


@pytest.fixture
def data(small_runs, tmp_path: Path) -> Path:
    """The validation images, alone."""
    root = tmp_path / "data"
    shutil.copytree(small_runs.root / "images" / "val", root / "val")
    return root


def evaluate(small_runs, weights: Path, data: Path, *overrides: str):
    config = load_config(small_runs.config, [f"data.root={data}", *overrides], world_size=1)
    return evaluate_checkpoint(config, weights)


def right_by_class(small_runs, weights: Path, data: Path) -> dict[str, tuple[int, int]]:
    """By hand: images and right answers of each class, through the prediction of single pictures."""
    model = Classifier(str(small_runs.config), str(weights), best=1)
    found = {}
    for folder in sorted((data / "val").iterdir()):
        answers = [model(Image.open(path).convert("RGB")).best[0][0] for path in sorted(folder.iterdir())]
        found[folder.name] = (len(answers), answers.count(folder.name))
    return found


def test_names_are_kept_everywhere(finished: Path) -> None:
    assert read_classes(finished / "last.safetensors") == read_classes(finished / "best.safetensors") == NAMES
    assert json.loads((finished / "result.json").read_text())["classes"] == NAMES
    checkpoint = sorted((finished / "checkpoints").glob("*.safetensors"))[-1]
    head = checkpoint.read_bytes()[: 1 << 20]
    assert all(name.encode() in head for name in NAMES)


def test_a_missing_class_leaves_the_exact_figure_of_the_others(small_runs, finished: Path, data: Path, capfd) -> None:
    weights = finished / "last.safetensors"
    counts = right_by_class(small_runs, weights, data)
    whole = evaluate(small_runs, weights, data)
    assert (whole.images, whole.correct1) == (13, sum(right for _, right in counts.values()))
    shutil.rmtree(data / "val" / "class0")
    part = evaluate(small_runs, weights, data)
    assert (part.images, part.correct1) == (13 - counts["class0"][0], whole.correct1 - counts["class0"][1])
    assert (
        part.empty_classes == ["class0"] and "1 of 4 classes have no images in data: 'class0'" in capfd.readouterr().err
    )


def test_strange_and_numbered_folders_are_refused(small_runs, finished: Path, data: Path) -> None:
    weights = finished / "last.safetensors"
    (data / "val" / "class2").rename(data / "val" / "klass2")
    with pytest.raises(
        UserError, match=r"1 of 4 classes that the model does not: 'klass2'; its 4 classes are 'class0'"
    ):
        evaluate(small_runs, weights, data)
    for number, name in enumerate(sorted(path.name for path in (data / "val").iterdir())):
        (data / "val" / name).rename(data / "val" / str(number))
    with pytest.raises(UserError, match=r"4 of 4 classes that the model does not: '0', '1', '2' and 1 more"):
        evaluate(small_runs, weights, data)


def test_a_list_of_numbers_wants_their_names(small_runs, finished: Path, data: Path) -> None:
    """The numbers of the list are not those of the weights: class3 is 0 there."""
    weights, val = finished / "last.safetensors", data / "val"
    lines = [f"{path.name},{3 - int(path.parent.name[-1])}" for path in sorted(val.rglob("*.png"))]
    for path in sorted(val.rglob("*.png")):
        shutil.copy(path, data / path.name)
    (data / "val.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"the labels of the data are numbers, the model has the classes 'class0'"):
        evaluate(small_runs, weights, data, "data.format=csv")
    (data / "names.txt").write_text("\ufeffclass3\nclass2\nclass1\nclass0\n\n")
    found = evaluate(small_runs, weights, data, "data.format=csv", f"data.classes={data / 'names.txt'}")
    assert found.correct1 == evaluate(small_runs, weights, data).correct1 and found.empty_classes is None


def test_weights_without_names(small_runs, finished: Path, data: Path, tmp_path: Path) -> None:
    """As many folders as outputs are taken in order, fewer are not."""
    weights = tmp_path / "bare.safetensors"
    save_weights(weights, load_file(finished / "last.safetensors"), {})
    assert (
        evaluate(small_runs, weights, data).correct1
        == evaluate(small_runs, finished / "last.safetensors", data).correct1
    )
    shutil.rmtree(data / "val" / "class0")
    with pytest.raises(UserError, match="the weights name no classes and have 4, the data have 3"):
        evaluate(small_runs, weights, data)
    assert Classifier(str(small_runs.config), str(weights)).names == [f"class {i}" for i in range(4)]
    (tmp_path / "names").write_text("a b\nc\nd\ne")
    assert Classifier(str(small_runs.config), str(weights), str(tmp_path / "names")).names == ["a b", "c", "d", "e"]
    with pytest.raises(UserError, match=r"--classes imagenet: 1000 names, .*bare.safetensors has 4 classes"):
        Classifier(str(small_runs.config), str(weights), "imagenet")


def test_the_number_of_outputs_must_be_that_of_the_weights(small_runs, finished: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"model.num_classes: 3, but .*last.safetensors has 4 classes: 'class0'"):
        evaluate(small_runs, finished / "last.safetensors", data, "model.num_classes=3")


@pytest.mark.parametrize("outputs", [3, 1000])
def test_another_number_of_outputs_than_classes_is_not_trained(small_runs, outputs: int) -> None:
    (ended,) = small_runs.start(small_runs.folder(), [f"model.num_classes={outputs}"]).wait()
    word = "above" if outputs > 4 else "below"
    assert ended.status == 2 and f"model.num_classes: {outputs} is {word} the 4 classes of images" in ended.text


def test_rows_of_the_head_go_with_their_names() -> None:
    model = create_model("dw_conv_nano", num_classes=3)
    theirs = create_model("dw_conv_nano", num_classes=4).state_dict()
    state, lines = head_by_name(model, theirs, ["a", "b", "c", "d"], ["d", "new", "a"])
    for key in ("head.weight", "head.bias"):
        assert torch.equal(state[key], torch.stack([theirs[key][3], model.state_dict()[key][1], theirs[key][0]]))
    assert lines == ["head: 2 of 3 classes are those of the weights, by name; the others start anew"]
    assert head_by_name(model, theirs, None, ["x", "y", "z"]) == (theirs, [])  # load_pretrained says the rest


def test_both_parts_of_volos_head_go_with_their_names() -> None:
    """Its logits are a sum of the two: rows of one alone would mix classes."""
    model = create_model("volo_nano", num_classes=3, img_size=32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state, _ = head_by_name(model, model.state_dict(), ["a", "b", "c"], ["c", "a", "b"])
    other = create_model("volo_nano", num_classes=3, img_size=32).eval()
    load_pretrained(other, state)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(image), model(image)[:, [2, 0, 1]])
    wider = create_model("volo_nano", num_classes=5, img_size=32)
    report = load_pretrained(wider, model.state_dict())
    parts = [f"{name} (3 classes in the checkpoint, 5 in the model)" for name in ("head", "aux_head")]
    assert report.replaced_head == ", ".join(parts)


def test_imagenets_synsets_are_known_without_names(tmp_path: Path) -> None:
    """Foreign weights of 1,000 classes on some synsets: ImageNet's order, whatever lies on disk."""
    from data import DataConfig, build_eval_loader

    chosen = [imagenet_classes()[index] for index in (7, 3, 999)]
    for name in chosen:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "x.png")
    loader = build_eval_loader(DataConfig(root=tmp_path, workers=0), img_size=8, batch_size=3, num_outputs=1000)
    assert sorted(next(iter(loader)).targets.tolist()) == [3, 7, 999] and len(loader.empty_classes) == 997


def test_other_data_are_not_gone_on_with(small_runs) -> None:
    """Classes, number and names of the images are those that the run began with."""
    images = small_runs.root / "other"
    shutil.copytree(small_runs.root / "images", images)
    output, root = small_runs.folder(), f"data.root={images}"
    (ended,) = small_runs.start(output, [root, "train.epochs=3"]).wait()
    assert ended.status == 0
    (output / "result.json").unlink()
    moved = images / "train" / "class1" / "001.png"
    moved.rename(moved.with_name("renamed.png"))
    assert "40 images of other names or in other classes than now, in its train split" in refused(
        small_runs, output, root
    )
    moved.with_name("renamed.png").rename(images / "train" / "class2" / "001.png")
    assert "40 images of other names or in other classes" in refused(small_runs, output, root)
    (images / "train" / "class2" / "001.png").unlink()
    assert "began with 40 images, now 39, in its train split" in refused(small_runs, output, root)
    shutil.copy(small_runs.root / "images" / "train" / "class1" / "001.png", moved)
    for split in ("train", "val"):
        (images / split / "class1").rename(images / split / "klass1")
    said = refused(small_runs, output, root)
    assert (
        "4 classes ('class0', 'class1', 'class2' and 1 more), now 4 ('class0', 'class2', 'class3' and 1 more)" in said
    )


def refused(small_runs, output: Path, *overrides: str) -> str:
    (ended,) = small_runs.start(output, overrides).wait()
    assert ended.status == 2, ended.text
    return ended.last_line


def test_accumulation_that_changes_batch_statistics_is_refused(small_runs) -> None:
    output = small_runs.folder()
    small = ["data.mixup.group=2", "train.epochs=3"]
    assert small_runs.start(output, small).wait()[0].status == 0
    (output / "result.json").unlink()
    said = refused(small_runs, output, *small, "train.accumulation=2")
    assert "train.accumulation: 2 puts 6 images behind a batch statistic" in said and "began with 12" in said
    output = small_runs.folder()  # a model without batch statistics may be cut as it likes
    small += ["model.name=swin_nano"]
    assert small_runs.start(output, small).wait()[0].status == 0
    (output / "result.json").unlink()
    assert small_runs.start(output, [*small, "train.accumulation=2"]).wait()[0].status == 0


def test_weights_are_not_resized_unsaid(small_runs, finished: Path, data: Path, tmp_path: Path, capfd) -> None:
    from tools.tables.recording import of_evaluation

    result = evaluate(small_runs, finished / "last.safetensors", data, "model.window_size=5")
    assert result.resized is not None and "mixer.op.weight (8, 7, 7) -> (8, 5, 5)" in result.resized[0]
    assert "WARNING: resized for this model, so the figure is not that of the weights" in capfd.readouterr().err
    line = tmp_path / "eval.json"
    line.write_text(json.dumps(result.to_json() | {"model": "swin_tiny"}))
    with pytest.raises(UserError, match="weights were resized for the evaluation"):
        of_evaluation(line, "configs/imagenet/swin_tiny.yaml")
    assert evaluate(small_runs, finished / "last.safetensors", data).resized is None
