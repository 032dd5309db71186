"""The page: self-contained, complete, and its pictures of weights show what the paper says of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import ndimage

from engine.config import load_config, to_dict
from engine.weights import save_weights
from models import build_model
from models.theory.measure import generic_copy
from tools import theory_page
from tools.theory.learned import FAMILIES, load_all


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A page of four nano models whose weights are random, as run folders hold them, and two drawn images."""
    folder = tmp_path_factory.mktemp("theory")
    repo = Path(__file__).resolve().parents[2]
    runs = []
    for family in FAMILIES:
        run = folder / f"{family}_nano"
        config = load_config(repo / "configs" / "quickstart" / f"{family}_nano.yaml", [f"output={run}"])
        model = generic_copy(build_model(config.model), torch.Generator().manual_seed(0)).float()
        run.mkdir()
        save_weights(run / "best.safetensors", model.state_dict(), {})
        (run / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
        runs.append(str(run))
    images = []
    for name, columns, light in (("one", 4, 255), ("two", 9, 150)):
        image = Image.new("L", (28, 28))
        image.paste(light, (8, 6, 8 + columns, 22))
        image.save(folder / f"{name}.png")
        images.append(str(folder / f"{name}.png"))
    what = ["--output", str(folder / "page"), "--run", *runs, "--image", *images]
    assert theory_page.main(what) == 0
    assert theory_page.main([*what, "--weights", str(folder / "page" / "weights.png")]) == 0
    yield folder / "page"


def test_page_needs_no_network_and_fits_a_phone(written: Path) -> None:
    text = (written / "index.html").read_text(encoding="utf-8")
    assert 'name="viewport"' in text
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "<script" not in text and "@import" not in text
    assert len(text) < 5e6


def test_page_names_runs_and_no_folder_of_this_disk(written: Path) -> None:
    text = (written / "index.html").read_text(encoding="utf-8")
    assert str(written.parent) not in text and str(Path.home()) not in text
    assert "Weights shown: swin_nano (13 epochs of MNIST-5k), dw_conv_nano (13 epochs" in text


def test_the_picture_of_weights_has_a_frame_of_each_place_in_each_line(written: Path) -> None:
    """Two images and four operators: eight frames of a colour, and its mark in both images."""
    pixels = np.asarray(Image.open(written / "weights.png").convert("RGB")).astype(int)
    for colour in ((0xE6, 0x55, 0x0D), (0x31, 0xA3, 0x54), (0x31, 0x82, 0xBD)):
        near = np.abs(pixels - colour).sum(2) < 12
        _, found = ndimage.label(near, structure=np.ones((3, 3)))
        assert found >= 10


def test_runs_are_called_by_their_operator_or_else_by_their_folder(tmp_path: Path) -> None:
    """An ablation is named after the model that it changes; a name that two runs share tells none apart."""
    folders = []
    for name, base, changes in (
        ("A", "swin_nano", ["model.mixer=static_window"]),
        ("B", "swin_nano", ["model.mixer=static_window"]),
        ("C", "dw_conv_nano", []),
        ("D", "d_dw_conv_nano", []),
        ("E", "d_dw_conv_nano", []),
    ):
        folders.append(tmp_path / name)
        write_run(folders[-1], base, changes)
    models = load_all(folders)
    assert [trained.label for trained in models] == ["A", "B", "DW-Conv.", "D", "E"]
    assert [trained.name for trained in models] == ["a", "b", "dw_conv", "d", "e"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["data.mean=[0.5]"], r"D: its data\.mean is \(0\.5,\), that of .*C is \("),
        (["model.img_size=56"], r"D: its model\.img_size is \(56, 56\), that of .*C is \(28, 28\)"),
        (["model.depths=[1]", "model.num_heads=[2]"], "D: dw_conv_nano has one stage; the page also shows the second"),
    ],
)
def test_runs_that_cannot_be_shown_side_by_side_are_named(changes: list[str], named: str, tmp_path: Path) -> None:
    folders = []
    for name, own in (("C", []), ("D", changes)):
        folders.append(tmp_path / name)
        write_run(folders[-1], "dw_conv_nano", own)
    with pytest.raises(ValueError, match=named):
        load_all(folders)


def write_run(folder: Path, base: str, changes: list[str]) -> None:
    """A run folder of untrained weights."""
    repo = Path(__file__).resolve().parents[2]
    config = load_config(repo / f"configs/quickstart/{base}.yaml", [f"output={folder}", *changes])
    folder.mkdir()
    save_weights(folder / "best.safetensors", build_model(config.model).state_dict(), {})
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))


def test_page_has_every_part(written: Path) -> None:
    text = (written / "index.html").read_text(encoding="utf-8")
    for part in ("Figure 1", "Table 1", "Appendix A", "Figures 2 and 4", "Appendix C", "Learned weights"):
        assert part in text
    for figure in ("figure1_a.svg", "figure4.svg", "matrix_dw_conv.png", "translation_i-dynamic.svg"):
        assert (written / "figures" / figure).stat().st_size > 500
    assert "equivalent to no translation" in text and "equivalent to translation by windows" in text


def picture(written: Path, sheet: str, name: str, column: str) -> bytes:
    return (written / "figures" / f"weights_{sheet}_{name}_{column}.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "positions_alike", "images_alike", "neighbours_alike"),
    [
        ("dw_conv", True, True, False),
        ("d_dw_conv", True, False, False),
        ("i_dynamic", False, False, True),
        ("swin", False, False, True),
    ],
)
def test_pictures_show_sharing_and_dynamics(
    written: Path, name: str, positions_alike: bool, images_alike: bool, neighbours_alike: bool
) -> None:
    """Equal weights give equal pictures, byte by byte; the second stage has two channels in a group of I-Dynamic."""
    bright, dark = (picture(written, "image_a", name, column) for column in ("brightest", "darkest"))
    assert (bright == dark) == positions_alike
    assert (bright == picture(written, "image_b", name, "brightest")) == images_alike
    first, second = (picture(written, "channels", name, f"channel_{index}") for index in (0, 1))
    assert (first == second) == neighbours_alike


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run", "no_such"], "so this is no run folder"),
        (["--epochs", "0"], "--epochs: must be at least 1, not 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert theory_page.main(["--output", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error


def test_an_image_that_cannot_be_read_is_named(written: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    run = str(written.parent / "dw_conv_nano")
    images = [str(tmp_path / "broken.png"), str(tmp_path / "none.png")]
    assert theory_page.main(["--output", str(tmp_path), "--run", run, "--image", *images]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "broken.png: not a readable image" in error
