"""What labels mean: lists of names, and how the labels of data follow them."""

from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from data.classes import (
    ClassList,
    imagenet_classes,
    imagenet_synsets_of,
    load_classes,
    match_classes,
    relabel,
    shown_names,
    sort_classes,
    without_images,
)
from data.image_list import ImageList, pack
from models.errors import UserError


def images(labels: list[int], classes: list[str], numbered: bool = False) -> ImageList:
    names = [f"{number}.jpg" for number in range(len(labels))]
    return pack(names, labels, classes, numbered=numbered)


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_imagenets_lists_are_timms() -> None:
    synsets = ImageNetInfo("imagenet-1k").label_names()
    assert imagenet_classes() == synsets and len(synsets) == 1000
    assert load_classes("imagenet") == ClassList(synsets, meaning=None, restricted=False)
    assert load_classes("imagenet_v2") == ClassList([str(n) for n in range(1000)], meaning=synsets)
    for name in ("imagenet_a", "imagenet_r"):
        found = load_classes(name)
        assert found.restricted and found.meaning is None
        assert len(set(found.names)) == 200 and set(found.names) < set(synsets)


def test_the_words_of_imagenet_are_known_in_any_letters() -> None:
    info = ImageNetInfo("imagenet-1k")
    words = [info.index_to_description(number).upper() for number in range(1000)]
    assert words[345] == "OX" and imagenet_synsets_of(words) == info.label_names()
    words[134] = "crane"  # the bird, by the first of its names alone
    words[517] = "crane2, a machine"
    assert imagenet_synsets_of(words) == info.label_names()
    assert imagenet_synsets_of(words[:-1]) is None
    assert imagenet_synsets_of([*words[:-1], "roll of toilet paper"]) is None


def test_a_file_is_one_name_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffGröße\n  great white shark \nb\n\n\n".encode())
    assert load_classes(str(path)) == ClassList(["Größe", "great white shark", "b"])
    assert refused(lambda: load_classes("imagenet_x")) == (
        "data.classes=imagenet_x: neither imagenet, imagenet_a, imagenet_r, imagenet_v2 nor a file of class names"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "line 3 repeats 'a'"),
        (b"\n \n", "names no classes"),
        (b"", "names no classes"),
        (b"a\xff\n", "cannot be read ("),
    ],
)
def test_a_file_that_is_no_list_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert refused(lambda: load_classes(str(path))).startswith(f"data.classes={path}: {message}")


def test_numbers_are_sorted_by_value_and_all_else_as_text() -> None:
    assert sort_classes(["10", "9", "0100", "9"]) == ["9", "10", "0100"]
    assert sort_classes(["010", "10"]) == ["010", "10"]
    assert sort_classes(["10", "9", "a"]) == ["10", "9", "a"]
    assert sort_classes(["10", "9", "²"]) == ["10", "9", "²"]  # a digit to Python, and no number


def test_labels_follow_a_list_by_name() -> None:
    found = relabel(images([0, 1, 1], ["cat", "dog"]), ClassList(["dog", "cow", "cat"]))
    assert (found.labels.tolist(), found.classes, found.numbered) == ([2, 0, 0], ["dog", "cow", "cat"], False)
    assert found.labels.dtype == np.int32  # as an image list has them
    found = relabel(images([0, 1], ["1", "2"]), ClassList(["0", "1", "2"], meaning=["x", "y", "z"]))
    assert (found.labels.tolist(), found.classes) == ([1, 2], ["x", "y", "z"])
    message = refused(lambda: relabel(images([0, 1], ["cat", "owl"]), ClassList(["cat", "dog"])))
    assert message == "class 'owl' of the data is not in data.classes (2 names)"


def test_labels_that_are_numbers_count_in_the_list() -> None:
    given = images([0, 1, 1], ["0", "1"], numbered=True)
    found = relabel(given, ClassList(["dog", "cat"]))
    assert (found.labels.tolist(), found.classes, found.numbered) == ([0, 1, 1], ["dog", "cat"], False)
    message = "data.classes has {} names, the labels of the data are numbers to 1"
    assert refused(lambda: relabel(given, ClassList(["dog"]))) == message.format(1)
    assert refused(lambda: relabel(given, ClassList(["a", "b", "c"], restricted=True))) == message.format(3)


def test_labels_follow_a_models_outputs_by_name() -> None:
    given = images([0, 1], ["cat", "dog"])
    assert match_classes(given, ["cat", "dog"], "x") is given
    found = match_classes(given, ("dog", "cow", "cat"), "x")
    assert (found.labels.tolist(), found.classes, found.numbered) == ([2, 0], ["dog", "cow", "cat"], False)
    found = match_classes(images([0, 1], ["0", "1"], numbered=True), ["0", "1", "2"], "x")
    assert (found.labels.tolist(), found.classes, found.numbered) == ([0, 1], ["0", "1", "2"], False)


def test_classes_that_a_model_does_not_have_are_named_with_its_own() -> None:
    given = images([0, 1, 2], ["ant", "cat", "dog"])
    assert refused(lambda: match_classes(given, ["cat", "cow"], "weights.pth")) == (
        "the data have 2 of 3 classes that weights.pth does not: 'ant', 'dog'; its 2 classes are 'cat', 'cow'"
    )
    numbered = images([0, 1], ["0", "1"], numbered=True)
    assert refused(lambda: match_classes(numbered, ["cat", "cow"], "weights.pth")) == (
        "the labels of the data are numbers, weights.pth has the classes 'cat', 'cow'; give data.classes, a file with "
        "the name of each label"
    )


def test_classes_without_images_are_found() -> None:
    given = images([1, 1], ["a", "b", "c", "d"])
    assert without_images(given) == ["a", "c", "d"]
    assert without_images(given, ["a", "b"]) == ["a"]


def test_three_names_are_shown_of_many() -> None:
    assert shown_names(["a", "b", "c"]) == "'a', 'b', 'c'"
    assert shown_names(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
