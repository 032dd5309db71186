"""What eval_cls.py says of single images and classes, against the prediction of each picture by itself."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_ranks import on_ranks
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import eval_cls
from engine import cli
from engine.answers import Answers
from engine.config import load_config
from engine.evaluate import examine
from engine.labels import TopKAccuracy
from tests.faults.small_run import SmallRuns
from tools.pictures import confusion
from tools.pictures.classifier import Classifier


@pytest.fixture
def evaluate_cls(small_runs: SmallRuns, finished: Path, monkeypatch, capsys):
    """Call the command on the small run: status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["--config", small_runs.config, "--checkpoint", finished / "best.safetensors", *arguments]
        monkeypatch.setattr(sys, "argv", ["eval_cls.py", *map(str, words)])
        status = cli.run(eval_cls.main)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def by_hand(small_runs: SmallRuns, weights: Path) -> list[tuple[str, str, str, float]]:
    """File, class, guess and probability of each validation picture, opened one by one."""
    model = Classifier(str(small_runs.config), str(weights), best=1)
    files = sorted((small_runs.root / "images" / "val").rglob("*.png"))
    return [(str(file), file.parent.name, *model(Image.open(file).convert("RGB")).best[0]) for file in files]


def examined(world, config: str, weights: str, table: str) -> dict | None:
    found = examine(load_config(config, [], world_size=world.size), Path(weights))
    if found is None:
        return None
    found[1].write(Path(table))
    return found[0].to_json()


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_image_has_one_row_in_the_order_of_the_data(small_runs, finished, evaluate_cls, tmp_path, ranks) -> None:
    table, weights = tmp_path / "deep" / "table.csv", finished / "best.safetensors"
    if ranks == 1:
        status, out, _ = evaluate_cls("--predictions", table)
        assert status == 0
        result = json.loads(out.splitlines()[-1])
    else:
        table.parent.mkdir()
        answers = on_ranks(ranks, examined, str(small_runs.config), str(weights), str(table))
        assert answers[1:] == [None, None]
        result = answers[0]
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    expected = by_hand(small_runs, weights)
    assert rows[0] == ["file", "true_class", "predicted_class", "probability"]
    assert [tuple(row[:3]) for row in rows[1:]] == [row[:3] for row in expected]
    assert [float(row[3]) for row in rows[1:]] == pytest.approx([row[3] for row in expected], abs=2e-6)
    classes = sorted({row[1] for row in expected})
    assert list(result["per_class"]) == classes
    for name in classes:
        own = [guess for _, true, guess, _ in expected if true == name]
        assert result["per_class"][name]["images"] == len(own)
        assert result["per_class"][name]["top1"] == pytest.approx(100 * own.count(name) / len(own), abs=1e-4)


def test_classes_without_images_are_not_counted(small_runs, finished, evaluate_cls, tmp_path: Path) -> None:
    shutil.copytree(small_runs.root / "images" / "val", tmp_path / "data" / "val")
    shutil.rmtree(tmp_path / "data" / "val" / "class1")
    status, out, _ = evaluate_cls(f"data.root={tmp_path / 'data'}", "--confusion", tmp_path / "c.png")
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and result["empty_classes"] == ["class1"]
    assert list(result["per_class"]) == ["class0", "class2", "class3"]
    assert Image.open(tmp_path / "c.png").format == "PNG"


class Three:
    """Three images of five classes, of which two may be guessed."""

    num_images, classes = 3, ["a", "b", "c", "d", "e"]
    class_outputs = torch.tensor([1, 3])
    records = type("Records", (), {"labels": np.array([1, 3, 3], np.int32)})


def test_only_what_can_be_guessed_is_an_answer() -> None:
    """As of ImageNet-A: the probability is that among the classes that can be guessed."""
    answers = Answers(TopKAccuracy(Three.class_outputs), Three(), torch.device("cpu"))  # type: ignore[arg-type]
    logits = torch.tensor([[9.0, 1, 0, 0, 0], [9.0, 0, 0, 2, 0], [9.0, 3, 5, 0, 0]])
    assert answers(logits, torch.tensor([1, 3, 3]), torch.arange(3)).tolist() == [3, 2, 3]
    table = np.zeros((5, 5), int)
    table[1, 1] = table[3, 3] = table[3, 1] = 1
    assert (answers.confusion() == table).all()
    assert answers._probabilities.tolist() == pytest.approx([1 / (1 + np.exp(-x)) for x in (1, 2, 3)], rel=1e-5)
    assert answers.per_class() == {"b": {"top1": 100.0, "images": 1}, "d": {"top1": 50.0, "images": 2}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "FOLDER/p.txt"], "--predictions FOLDER/p.txt: must end in .csv"),
        (["--confusion", "FOLDER/p.jpg"], "--confusion FOLDER/p.jpg: must end in .png"),
        (["--confusion", "FOLDER/file/p.png"], "--confusion FOLDER/file/p.png: its folder cannot be made"),
        (["--predictions", "FOLDER/x.csv", "eval.labels=real"], "--predictions: eval.labels=real gives an image"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_evaluation(evaluate_cls, tmp_path, arguments, message) -> None:
    (tmp_path / "file").write_text("")
    status, out, err = evaluate_cls(*(word.replace("FOLDER", str(tmp_path)) for word in arguments))
    assert (status, out) == (2, "")
    assert message.replace("FOLDER", str(tmp_path)) in err and len(err.splitlines()) == 1


def test_a_disk_that_refuses_afterwards_costs_no_figure(evaluate_cls, tmp_path, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.answers.write_atomic", full)
    status, out, err = evaluate_cls("--predictions", tmp_path / "p.csv")
    assert status == 2 and json.loads(out.splitlines()[-1])["images"] == 13
    assert err.splitlines()[-1] == f"error: {tmp_path / 'p.csv'}: cannot be written (No space left on device)"


def matrix(count: int) -> np.ndarray:
    """Forty images a class, a twentieth of each taken for the next class."""
    return 38 * np.eye(count, dtype=int) + 2 * np.eye(count, dtype=int)[:, (np.arange(count) - 1) % count]


@pytest.mark.parametrize("count", [2, 30, 1000])
def test_every_size_of_matrix_is_a_picture_that_fits_a_screen(count: int, tmp_path: Path) -> None:
    confusion.draw_confusion(tmp_path / "c.png", matrix(count), [f"class number {i}" for i in range(count)])
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    assert picture.shape[0] < 1400 and picture.shape[1] < 1800
    dark = (picture[:, :, 2] - picture[:, :, 0] > 100) & (picture[:, :, 0] < 60)  # the blue of nine tenths
    rows, columns = np.nonzero(dark)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3), "the matrix is square"
    assert np.median(rows - rows.min() - columns + columns.min()) == pytest.approx(0, abs=3)
    assert np.corrcoef(rows, columns)[0, 1] > 0.4, "the right answers lie on the falling diagonal"


def test_rows_of_the_matrix_are_the_true_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(confusion, "FigureCanvasAgg", lambda figure: figures.append(figure) or FigureCanvasAgg(figure))
    confusion.draw_confusion(tmp_path / "c.png", np.array([[1, 9], [0, 10]]), ["a", "b"])
    (axes,) = figures[0].axes
    assert axes.images[0].get_array().tolist() == [[10, 90], [0, 100]]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("class", "taken for")
    written = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert written == {(0, 0): "10", (1, 0): "90", (1, 1): "100"}


def test_the_lists_name_mistakes_and_lowest_classes() -> None:
    table = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    assert confusion.mistakes(table, ["a", "b", "c"]) == [("5 of 10", "c → a"), ("2 of 10", "a → b")]
    lowest = [("50.0% of 10", "c"), ("80.0% of 10", "a"), ("100.0% of 10", "b")]
    assert confusion.lowest(table, ["a", "b", "c"]) == lowest
    assert confusion.mistakes(np.diag([1, 2]), ["a", "b"]) == [("", "none")]
