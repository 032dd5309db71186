"""The list of models: one line each, with the paper's numbers, in text, as JSON and as the page's tables."""

import json
import sys

import pytest

from tools import models as tool
from tools.tables import model_list
from tools.tables.loading import load_tables


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["models.py", *arguments])
    return tool.main()


def test_one_line_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """PAPER section 1: 24,172,744 parameters and 3.7269 G; 26,244,280 and 4.3041 G; Table 2 and 11: 81.3 and 81.8."""
    assert run(monkeypatch, "dw_conv_tiny", "i_dynamic_t*", "svt_nano") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "operator", "parameters"]
    assert [" ".join(line.split()) for line in lines] == [
        "dw_conv_tiny DW-Conv 24,172,744 3.73 G 224x224 81.3 yes",
        "i_dynamic_tiny I-Dynamic 26,244,280 4.30 G + 0.07 G 224x224 81.8 no",
        "svt_nano local and global attention 2,570,664 2.50 G 224x224 - no",
    ]


def test_json_of_the_models_with_weights(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "d*_tiny", "--pretrained", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(model["name"], model["params"], model["paper_top1"], model["weights"]) for model in found] == [
        ("dw_conv_tiny", 24_172_744, "81.3", True),
        ("d_dw_conv_tiny", 51_131_752, "81.9", True),
    ]
    assert [round(model["macs"] / 1e9, 4) for model in found] == [3.7269, 3.7538]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dw_con_tiny"], "the nearest valid one is dw_conv_tiny"),
        (["i_dynamic*", "--pretrained"], "no model with weights"),
    ],
)
def test_a_name_that_is_none(arguments: list[str], words: str, monkeypatch, capsys) -> None:
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_cards_of_the_families() -> None:
    tables = load_tables()
    files = [row for family in ("swin", "dw_conv", "d_dw_conv") for row in model_list.weights_table(family, tables)[1:]]
    assert len(files) == 18 and model_list.weights_table("i_dynamic", tables)[1:] == []
    (line,) = [row for row in files if row[1] == "`dw_conv_base`" and row[0] == "detection"]
    assert line[3:5] == ["box AP 51.0, mask AP 44.1", "box AP 51.1, mask AP 44.2"]  # README of the release; Table 3
