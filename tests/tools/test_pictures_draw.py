"""Drawings show what they are given: colours, boxes, legends, sheets; the classifier's path of tools/predict.py."""

import csv
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
from tools.pictures.draw import (
    PAGE,
    SHORT_SIDE,
    Classes,
    Found,
    Labels,
    Objects,
    colour_of,
    draw,
    enlarge,
    sheet,
    sheets,
    side_of,
)

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


@pytest.mark.parametrize(("columns", "count"), [(1, 9), (2, 5), (3, 3), (6, 2)])
def test_sheets_fit_a_screen_and_lose_no_picture(columns: int, count: int) -> None:
    """Upright and lying photographs, with five classes below each."""
    side, five = side_of(columns), Classes([(f"class {i}", 0.2) for i in range(5)])
    rows = []
    for number in range(count):
        size = (400, 300) if number % 2 else (300, 400)
        image = Image.new("RGB", size, (number * 8, 250, 3))
        rows.append([draw(image, five, side) for _ in range(columns)])
    pages = sheets(rows, [f"m{i}" for i in range(columns)], [f"{i}.jpg" for i in range(count)])
    assert all(page.width <= PAGE[0] and page.height <= PAGE[1] for page in pages)
    whole = np.concatenate([np.asarray(page).reshape(-1, 3) for page in pages])
    own = whole[(whole[:, 1] == 250) & (whole[:, 2] == 3), 0]
    found = np.bincount(own, minlength=8 * count)[: 8 * count : 8]
    assert found.tolist() == [columns * side * round(side * 3 / 4)] * count


def test_boxes_are_scaled_with_the_image_of_a_sheet() -> None:
    item = Found("seven", 7, 0.9, (1000.0, 2000.0, 1400.0, 2400.0), None)
    pixels = np.asarray(draw(grey(4000, 4000), Objects([item]), 400))
    assert pixels.shape == (400, 400, 3) and tuple(pixels[220, 100]) == tuple(pixels[239, 120]) == colour_of(7)


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


def test_predictions_as_a_table(classifier: tuple[str, str], tmp_path: Path, capsys) -> None:
    """Files, a folder and a pattern; each image once; the table says what the JSON says."""
    inside = tmp_path / "images" / "deep"
    inside.mkdir(parents=True)
    reader = MnistReader("val")
    for index, name in enumerate(("a.png", "images/b.png", "images/c.PNG", "images/deep/d.png")):
        reader.open(index).open().save(tmp_path / name)
    (inside / "notes.txt").write_text("")
    out = tmp_path / "out"
    images = [str(tmp_path / "a.png"), str(tmp_path / "images"), str(tmp_path / "images" / "**" / "*.png")]
    arguments = [*images, "--model", *classifier, "--out", str(out)]
    assert predict.main([*arguments, "--csv"]) == predict.main([*arguments, "--json", "--no-pictures"]) == 0
    entries = json.loads((out / "predictions.json").read_text())
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["a.png", "b.png", "c.PNG", "d.png"]
    for row, entry in zip(rows, entries, strict=True):
        assert (row["image"], row["model"]) == (entry["image"], "config")
        for place, best in enumerate(entry["classes"], start=1):
            assert row[f"class_{place}"] == best["name"]
            assert float(row[f"probability_{place}"]) == best["probability"]
    assert len(list(out.glob("*_config.png"))) == 4


def test_only_predictions_leave_no_pictures(classifier: tuple[str, str], tmp_path: Path) -> None:
    grey(30, 30).save(tmp_path / "a.png")
    table = tmp_path / "deep" / "table.csv"
    arguments = [str(tmp_path / "a.png"), "--model", *classifier, "--out", str(tmp_path / "out")]
    assert predict.main([*arguments, "--output", str(table), "--no-pictures"]) == 0
    assert table.read_text().startswith("image,model,class_1,probability_1,") and not (tmp_path / "out").exists()


def test_objects_and_labels_as_rows() -> None:
    mask = np.ones((2, 3), bool)
    boxes = Objects([Found("b", 1, 0.51234, (1, 2, 3, 4.06), mask), Found("c", 2, 0.4, (0, 0, 1, 1), None)])
    assert boxes.table() == [
        {"class": "b", "score": 0.5123, "left": 1, "top": 2, "right": 3, "bottom": 4.1, "mask_pixels": 6},
        {"class": "c", "score": 0.4, "left": 0, "top": 0, "right": 1, "bottom": 1},
    ]
    assert Objects([]).table() == [{}], "an image without objects still has its row"
    assert Labels(np.array([[0, 0], [0, 2]]), ["a", "b", "c"]).table() == [
        {"class": "a", "share": 0.75},
        {"class": "c", "share": 0.25},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "p.txt"], "--output p.txt: must end in .csv or .json"),
        (["--output", "p.csv", "--json"], "--output p.csv: --json wants the suffix .json"),
    ],
)
def test_a_table_of_another_form_is_refused(arguments: list[str], message: str, capsys) -> None:
    assert predict.main(["nowhere.png", "--model", "c.yaml", "w.pth", *arguments]) == 2
    assert capsys.readouterr().err == f"predict: {message}\n"


@pytest.mark.parametrize(
    "change,word",
    [
        ({"image": "nowhere.png"}, "nowhere.png: no such image or folder"),
        ({"image": "nowhere/*.png"}, "nowhere/*.png: matches no image"),
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
