"""The embedded data set: both kinds of annotation say the same, splits are disjoint, the seed decides everything."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from data.prepare import scenes as make_scenes
from data.prepare.scenes import BACKGROUND, FIRST_DIGIT, IGNORE, PHOTOGRAPHS, SceneSpec, encode_rle, load_photographs
from tools import make_scenes as command

pytestmark = pytest.mark.dense


@pytest.mark.parametrize("split,folder", [("train", "training"), ("val", "validation")])
def test_boxes_masks_and_labels_agree(scenes: Path, split: str, folder: str) -> None:
    coco = COCO(scenes / "annotations" / f"instances_{split}2017.json")
    for image_id, info in coco.imgs.items():
        label = np.asarray(Image.open(scenes / "annotations" / folder / info["file_name"].replace("jpg", "png")))
        image = Image.open(scenes / "images" / folder / info["file_name"])
        assert image.size == (info["width"], info["height"]) == label.shape[::-1]
        seen = np.zeros(label.shape, bool)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"] > 0
            assert (label[mask] == FIRST_DIGIT + annotation["category_id"] - 1).all()
            assert not (seen & mask).any()
            seen |= mask
            rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.isin(label[~seen], (IGNORE, BACKGROUND)).all() and (label[seen] >= FIRST_DIGIT).all()
    assert [category["name"] for category in coco.cats.values()] == list("0123456789")


def test_the_seed_decides_everything(scenes: Path, tmp_path: Path) -> None:
    make_scenes.make_scenes(tmp_path / "same", train=16, val=6, seed=3)
    make_scenes.make_scenes(tmp_path / "other", train=2, val=1, seed=4)
    for file in scenes.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "same" / file.relative_to(scenes)).read_bytes(), file
    first = "images/training/000000.jpg"
    assert (scenes / first).read_bytes() != (tmp_path / "other" / first).read_bytes()


def test_splits_share_no_photograph_and_no_digit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {split: {f"{folder}/{n}" for folder, ns in PHOTOGRAPHS[split].items() for n in ns} for split in PHOTOGRAPHS}
    assert not names["train"] & names["val"]
    used: dict[str, set[bytes]] = {}
    compose = make_scenes.compose_scene

    def spy(photographs, digits, *rest):
        used.setdefault("train" if len(digits) == 4000 else "val", set()).update(d.tobytes() for d in digits)
        return compose(photographs, digits, *rest)

    monkeypatch.setattr(make_scenes, "compose_scene", spy)
    make_scenes.make_scenes(tmp_path, train=1, val=1)
    assert len(used["train"]) > 3900 and len(used["val"]) > 990 and not used["train"] & used["val"]


def test_same_request_is_not_made_again(scenes: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in scenes.rglob("*")}
    counts = make_scenes.make_scenes(scenes, train=16, val=6, seed=3)
    assert counts["train"]["images"] == 16
    assert before == {file: file.stat().st_mtime_ns for file in scenes.rglob("*")}


def test_another_request_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    make_scenes.make_scenes(tmp_path, train=3, val=3)
    make_scenes.make_digits(tmp_path / "digits", each=12)
    digits = sorted((tmp_path / "digits").rglob("*.jpg"))
    make_scenes.make_scenes(tmp_path, train=2, val=1)
    for kind, ending in (("images", "jpg"), ("annotations", "png")):
        found = [len(list((tmp_path / kind / split).glob(f"*.{ending}"))) for split in ("training", "validation")]
        assert found == [2, 1]
    assert digits and sorted((tmp_path / "digits").rglob("*.jpg")) == digits


def test_what_was_not_made_here_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    theirs = tmp_path / "annotations" / "instances_train2017.json"
    theirs.parent.mkdir()
    theirs.write_text("COCO's own")
    assert command.main([str(tmp_path), "--train", "1", "--val", "1"]) == 2
    assert "holds files that were not made here (no scenes.json); give another folder" in capsys.readouterr().err
    assert theirs.read_text() == "COCO's own"


def test_a_request_that_was_stopped_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(make_scenes, "annotate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_scenes.make_scenes(tmp_path, train=2, val=1)
    assert make_scenes.make_scenes(tmp_path, train=2, val=1)["train"]["images"] == 2


def test_run_lengths() -> None:
    mask = np.array([[0, 1], [1, 1]], bool)
    assert encode_rle(mask) == {"size": [2, 2], "counts": [1, 3]}
    assert encode_rle(np.array([[1, 0], [0, 0]], bool)) == {"size": [2, 2], "counts": [0, 1, 3]}


def test_scenes_hold_the_objects_asked_for() -> None:
    digits = np.zeros((1, 28, 28), np.uint8)
    digits[0, 6:22, 12:16] = 255
    spec = SceneSpec(width=192, height=160, digit_heights=(20, 30), objects=(3, 3))  # with room for all three
    photographs = load_photographs("val")
    for seed in range(10):
        scene = make_scenes.compose_scene(photographs, digits, np.array([1]), spec, np.random.default_rng(seed))
        assert scene.image.shape == (160, 192, 3) and [digit for digit, _ in scene.objects] == [1, 1, 1]


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(PHOTOGRAPHS, "train", {"skimage/data": ("no_such.png",)})
    assert command.main([str(tmp_path / "x")]) == 2
    assert "no_such.png" in capsys.readouterr().err


def test_coco_file_is_plain_json(scenes: Path) -> None:
    content = json.loads((scenes / "annotations" / "instances_val2017.json").read_text())
    assert {annotation["iscrowd"] for annotation in content["annotations"]} == {0}


def test_single_digits_are_an_image_folder(tmp_path: Path) -> None:
    """Digits of the whole split, in folders of their class, brighter than what is around them; not made twice."""
    assert make_scenes.make_digits(tmp_path, each=12) == {"train": 12, "val": 12}
    for split in ("train", "val"):
        _, labels = make_scenes.load_split(split)
        files = {int(file.stem): file for file in (tmp_path / split).rglob("*.jpg")}
        assert len(files) == 12 and min(files) == 0 and max(files) == len(labels) - 1
        assert all(int(file.parent.name) == labels[index] for index, file in files.items())
        for file in files.values():
            grey = np.asarray(Image.open(file).convert("L"), float)
            assert grey.shape == (64, 64) and np.percentile(grey, 97) > grey.mean() + 30
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.jpg")}
    make_scenes.make_digits(tmp_path, each=12)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.jpg")}


def test_every_digit_fits_the_smallest_picture() -> None:
    """The widest digit, turned, at its greatest height: a close-up must hold it."""
    digit = np.full((1, 28, 28), 255, np.uint8)
    digit[:, :4], digit[:, -4:], digit[:, :, :4], digit[:, :, -4:] = 0, 0, 0, 0
    spec = make_scenes.CLOSE_UP
    for seed in range(40):
        ink = make_scenes.draw_ink(digit[0], spec, np.random.default_rng(seed))
        assert ink.shape[0] <= spec.height and ink.shape[1] <= spec.width
