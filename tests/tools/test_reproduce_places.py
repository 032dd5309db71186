"""Where `make reproduce` finds the validation sets, and what it says where they are not as they should be."""

import json
import zipfile
from pathlib import Path

import pytest

from data.classes import imagenet_classes
from engine.labels import real_labels
from models.errors import UserError
from tests.stand_in.sets import imagenet_name, likely_labels, make_ade20k, make_coco, make_imagenet, picture
from tools.reproduction.places import Place, find_places


def test_each_set_is_found_where_people_have_it(tmp_path: Path) -> None:
    make_imagenet(tmp_path / "ILSVRC2012", likely_labels(3))
    make_coco(tmp_path / "coco", 2, ["person"], size=(40, 30))
    make_ade20k(tmp_path / "data" / "ade" / "ADEChallengeData2016", 2, size=(40, 30))
    found = find_places(tmp_path / "data", {"detection": tmp_path / "coco"})
    assert found["segmentation"] == Place(tmp_path / "data" / "ade" / "ADEChallengeData2016", 2)
    assert found["detection"] == Place(tmp_path / "coco", 2) and "classification" not in found
    found = find_places(tmp_path, {})
    assert found["classification"] == Place(tmp_path / "ILSVRC2012", 3, ("data.format=folder",))
    assert find_places(tmp_path / "coco", {}) == {"detection": Place(tmp_path / "coco", 2)}  # DATA is the set itself


def test_imagenet_is_told_from_other_sets_in_each_form(tmp_path: Path) -> None:
    make_imagenet(tmp_path / "folders", likely_labels(2))
    inside = {"a": f"val/{imagenet_classes()[7]}/x.JPEG", "b": imagenet_name(9), "c": "val/7/x.png"}
    for name, member in inside.items():
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "val.zip", "w") as archive:
            archive.writestr(member, b"never decoded")
    (tmp_path / "b" / "val_map.txt").write_text(f"{imagenet_name(9)}\t388\n")
    by_class, by_number = (find_places(tmp_path / name, {})["classification"] for name in "ab")
    assert by_class.overrides == ("data.format=zip",)
    assert by_number.overrides == ("data.format=zip", "data.classes=imagenet")
    with pytest.raises(UserError, match="have no validation set; wanted is ImageNet: val/<synset>"):
        find_places(tmp_path / "c", {})


def test_what_is_not_as_it_should_be_is_said(tmp_path: Path) -> None:
    make_coco(tmp_path / "coco", 1, ["person"], size=(40, 30))
    (tmp_path / "coco" / "val2017").rename(tmp_path / "coco" / "val")
    with pytest.raises(UserError, match=r"--coco .*coco: wanted is COCO: val2017/ and annotations/instances_val2017"):
        find_places(tmp_path, {"detection": tmp_path / "coco"})
    with pytest.raises(UserError, match="DATA: there is no folder"):
        find_places(tmp_path / "none", {})
    for name, message in (("ImageNet-1k", r"ImageNet-1k: .*val\.csv line 1"), ("other", "have no validation set")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val.csv").write_text("a.jpg,0,1\n")
        with pytest.raises(UserError, match=message):
            find_places(tmp_path / name, {})
    flat = tmp_path / "flat" / "val"
    flat.mkdir(parents=True)
    picture(0, 8, 8).save(flat / imagenet_name(1))
    with pytest.raises(UserError, match="flat/val: its pictures lie in no class folders"):
        find_places(tmp_path / "flat", {})


def test_a_file_of_reals_labels_must_be_reals(tmp_path: Path) -> None:
    make_imagenet(tmp_path, likely_labels(1))
    labels = real_labels()
    (tmp_path / "real.json").write_text(json.dumps(labels))
    assert find_places(tmp_path, {})["classification"].images == 1
    (tmp_path / "real.json").write_text(json.dumps(labels[1:]))
    with pytest.raises(UserError, match=r"real\.json: not the ReaL labels"):
        find_places(tmp_path, {})
