"""Drawings show what they are given: colours, boxes, legends, sheets; the classifier's path of tools/predict.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data.decode import read_upright
from data.readers.mnist import MnistReader
from models import create_model
from tools import predict
from tools.pictures.draw import SHORT_SIDE, Classes, Found, Labels, Objects, colour_of, draw, enlarge, sheet

CONFIG = """
model: {name: dw_conv_nano, num_classes: 10, in_chans: 1, img_size: 28, patch_size: 2}
data: {format: mnist5k, channels: 1, mean: [0.1307], std: [0.3081]}
"""


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def test_colours_of_neighbours_differ() -> None:
    colours = np.array([colour_of(index) for index in range(150)], int)
    assert (np.abs(np.diff(colours, axis=0)).max(1) > 60).all()
    assert len({tuple(colour) for colour in colours}) == 150


def test_boxes_and_masks_are_drawn_where_they_are() -> None:
    mask = np.zeros((SHORT_SIDE, SHORT_SIDE), bool)
    mask[200:240, 100:140] = True
    item = Found("seven", 7, 0.9, (100.0, 200.0, 140.0, 240.0), mask)
    pixels = np.asarray(draw(grey(SHORT_SIDE, SHORT_SIDE), Objects([item]))).astype(int)
    assert tuple(pixels[230, 100]) == colour_of(7)
    veil = (np.array(colour_of(7)) + 128) / 2
    assert np.abs(pixels[220, 120] - veil).max() <= 1
    assert (pixels[300:, :] == 128).all() and (pixels[:, 250:] == 128).all()


def test_labels_are_veiled_and_listed() -> None:
    label = np.zeros((SHORT_SIDE, SHORT_SIDE), int)
    label[:, 300:] = 2
    picture = draw(grey(SHORT_SIDE, SHORT_SIDE), Labels(label, ["sky", "sea", "sand"]))
    pixels = np.asarray(picture).astype(int)
    for column, index in ((10, 0), (400, 2)):
        assert np.abs(pixels[50, column] - (0.45 * 128 + 0.55 * np.array(colour_of(index)))).max() <= 1
    legend = pixels[SHORT_SIDE:].reshape(-1, 3).tolist()
    assert list(colour_of(0)) in legend and list(colour_of(2)) in legend and list(colour_of(1)) not in legend


def test_background_is_left_as_it_is() -> None:
    label = np.zeros((SHORT_SIDE, SHORT_SIDE), int)
    label[:, 300:] = 1
    pixels = np.asarray(draw(grey(SHORT_SIDE, SHORT_SIDE), Labels(label, ["background", "7"]))).astype(int)
    assert pixels[50, 10].tolist() == [128, 128, 128] and pixels[50, 400].tolist() != [128, 128, 128]


def test_shares_add_up() -> None:
    labels = Labels(np.array([[0, 0], [0, 2]]), ["a", "b", "c"])
    assert labels.summary() == {"labels": {"a": 0.75, "c": 0.25}}


def test_bars_are_as_long_as_the_probability() -> None:
    picture = draw(grey(SHORT_SIDE, SHORT_SIDE), Classes([("cat", 0.5), ("dog", 0.25)]))
    bar = np.asarray(picture)[SHORT_SIDE + 5] == (170, 205, 250)
    assert abs(bar.all(-1).sum() - SHORT_SIDE / 2) <= 2


def test_small_images_are_enlarged_and_large_ones_kept() -> None:
    assert enlarge(grey(28, 56))[0].size == (SHORT_SIDE, 2 * SHORT_SIDE)
    assert enlarge(grey(900, 600))[0].size == (900, 600)


def test_a_sheet_holds_every_picture() -> None:
    rows = [[Image.new("RGB", (60, 40), (row * 90, column * 90, 7)) for column in range(3)] for row in range(2)]
    page = np.asarray(sheet(rows, ["image", "a", "b"], ["one.png", "two.png"]))
    for row in range(2):
        for column in range(3):
            assert (page == (row * 90, column * 90, 7)).all(-1).sum() == 60 * 40


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[str, str]:
    torch.manual_seed(0)
    config, weights = tmp_path / "config.yaml", tmp_path / "weights.safetensors"
    config.write_text(CONFIG)
    model = create_model("dw_conv_nano", num_classes=10, in_chans=1, img_size=28, patch_size=2)
    save_file(model.state_dict(), weights)
    return str(config), str(weights)


def test_predict_classifies_a_folder(classifier: tuple[str, str], tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    reader = MnistReader("val")
    for index in range(3):
        reader.open(index).open().save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    arguments = [str(folder), "--model", *classifier, "--model", *classifier, "--out", str(out)]
    assert predict.main(arguments) == 0
    records = json.loads((out / "predictions.json").read_text())
    assert len(records) == 6 and {record["model"] for record in records} == {"config-1", "config-2"}
    model = create_model("dw_conv_nano", num_classes=10, in_chans=1, img_size=28, patch_size=2).eval()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(classifier[1]))
    for record in records:
        image = torch.from_numpy(np.asarray(Image.open(record["image"])).copy()).float()[None, None] / 255
        with torch.no_grad():
            best = model((image - 0.1307) / 0.3081).softmax(-1)[0].max(0)
        assert record["classes"][0]["name"] == f"class {int(best.indices)}"  # the weights name none
        assert abs(record["classes"][0]["probability"] - float(best.values)) < 1e-3
    assert len(list(out.glob("*.png"))) == 7
    assert Image.open(out / "sheet.png").width > 3 * SHORT_SIDE


@pytest.mark.parametrize(
    "change,word",
    [
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"config": "model.txt"}, "model.txt"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"weights": "missing.safetensors"}, "missing.safetensors"),
    ],
)
def test_predict_names_what_is_wrong(classifier, change, word: str, tmp_path: Path, capsys) -> None:
    image = tmp_path / "image.png"
    grey(28, 28).save(image)
    given = {"image": str(image), "config": classifier[0], "weights": classifier[1], **change}
    assert (
        predict.main([given["image"], "--model", given["config"], given["weights"], "--out", str(tmp_path / "o")]) == 2
    )
    error = capsys.readouterr().err.strip()
    assert word in error and len(error.splitlines()) == 1


def test_predict_names_an_unreadable_image(classifier: tuple[str, str], tmp_path: Path, capsys) -> None:
    """It is named, the others still come, and the status says that something is missing."""
    broken, good = tmp_path / "broken.png", tmp_path / "good.png"
    broken.write_bytes(b"no image")
    Image.new("RGB", (40, 30), "red").save(good)
    assert predict.main([str(broken), str(good), "--model", *classifier, "--out", str(tmp_path / "o")]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert [Path(entry["image"]).name for entry in json.loads((tmp_path / "o/predictions.json").read_text())] == [
        "good.png"
    ]


def test_predict_turns_a_picture_as_its_exif_says(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 20), "black")
    lying.paste("white", (0, 0, 10, 20))  # a white edge at the left, which orientation 6 turns to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "turned.png", exif=exif)
    upright = read_upright(tmp_path / "turned.png")
    assert (
        upright.size == (20, 40)
        and upright.getpixel((10, 2)) == (255, 255, 255)
        and upright.getpixel((10, 30)) == (0, 0, 0)
    )
