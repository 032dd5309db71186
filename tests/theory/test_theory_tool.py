"""tools/analyze_operator.py: its output is the measurement, and what a user mistypes is named on one line."""

import json
import shlex
from dataclasses import replace

import pytest

from models.mixers.dw_conv import StaticDepthwise
from tools import analyze_operator as tool


def run(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["analyze_operator.py", *shlex.split(arguments)])
    return tool.main()


def test_json_of_a_mixer_with_options(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "static_window --set share_windows=true --shifted --json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["declared_equals_measured"] and entry["measured"] == entry["declared"]
    assert entry["table1"]["share_positions"] == "between windows"
    assert (entry["window"], entry["period"], entry["channel_groups"], entry["rank"]) == ([3, 3], 3, 2, 288)


def test_table_1_is_printed(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--table1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1].split()[0] == "I-Dynamic"
    assert all(line.endswith("same") for line in lines[2:])


def test_translation_is_printed_as_error_over_shift(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--translation") == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if " mixer " in line}
    assert lines["DW-Conv."].endswith("any translation")
    assert lines["Window attention"].endswith("translation by windows")
    assert lines["Static windows"].endswith("no translation, exactly")
    assert [float(cell) == 0 for cell in lines["Window attention"].split()[3:12]] == [s % 4 == 0 for s in range(9)]


def test_translation_of_the_mixers_that_are_named(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--translation static_window --set share_windows=true --json") == 0
    (label, curves), *others = json.loads(capsys.readouterr().out).items()
    assert not others and (label, curves["kind"]) == ("static_window", "blocks")
    assert run(monkeypatch, "--translation static_window i_dynamic --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {label: curves["kind"] for label, curves in found.items()} == {"Static windows": "none", "I-Dynamic": "any"}


def test_a_mixer_that_declares_nothing_is_named(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    build = StaticDepthwise.__init__

    def forget(self: StaticDepthwise, *args: object, **options: object) -> None:
        build(self, *args, **options)
        self.properties = None

    monkeypatch.setattr(StaticDepthwise, "__init__", forget)
    assert run(monkeypatch, "dw_conv") == 2
    assert "StaticDepthwise: declares no properties" in capsys.readouterr().err


def test_a_wrong_declaration_is_exit_status_1(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    build = StaticDepthwise.__init__

    def boast(self: StaticDepthwise, *args: object, **options: object) -> None:
        build(self, *args, **options)
        self.properties = replace(self.properties, dynamic=True)

    monkeypatch.setattr(StaticDepthwise, "__init__", boast)
    assert run(monkeypatch, "dw_conv") == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("dw_cnv", "'dw_cnv' is not a layer; the nearest valid one is dw_conv"),
        ("dw_conv --set share_chanels=true", "the nearest valid one is share_channels"),
        ("dw_conv --set share_channels=maybe", "share_channels: 'maybe'"),
        ("dw_conv --set share_channels", "'share_channels' is not of the form key=value"),
        ("dw_conv --set 'share_channels=[1'", "not valid YAML"),
        ("conv --set padding=zeros", "'conv' takes no options"),
        ("conv_attention --set form=post_conf", "the nearest valid one is post_conv"),
        ("dw_conv --size 7", "--size: 7 must be an even number of at least two windows of 3 and at least 6; try 6"),
        ("dw_conv --channels 9", "--channels: 9 cannot be split evenly into 2 heads"),
        ("dw_conv --channels 200", "--channels: 6x6 positions allow at most 56 channels"),
        ("dw_conv --heads 0", "--heads: must be at least 1, not 0"),
        ("dw_conv --size 24 --channels 4", "--channels: 24x24 positions allow fewer than 4 channels, so --size is too"),
        (
            "dw_conv --size 4 --window 2",
            "at least two windows of 2 and at least 6; try 8",
        ),
        ("d_dw_conv --channels 3 --heads 1", "--channels: must be at least 4, not 3"),
        ("dw_conv --window 1", "--window: must be at least 2, not 1"),
        ("dw_conv --set window_size=5", "window_size: is no option here"),
        ("i_dynamic --set groups=abc", "groups: 'abc' is not of the type of its default, 32"),
        ("i_dynamic --set groups=0", "mixer_args.groups: 8 channels cannot be split evenly into 0 groups"),
        ("i_dynamic --set groups=-2", "mixer_args.groups: 8 channels cannot be split evenly into -2 groups"),
        ("i_dynamic --set groups=[]", "mixer_args.groups: must be a number, or one for each stage, not []"),
        ("i_dynamic --set groups=[a]", "mixer_args.groups: must be a number, or one for each stage, not ['a']"),
        ("--table1 --set share_channels=true", "--set: options belong to a NAME"),
        ("--all dw_conv --set share_channels=true", "--set: options belong to a NAME"),
        ("--translation --set share_channels=true", "--set: options belong to a NAME"),
        ("--translation conv", "'conv' is not a mixer; the nearest valid one is dw_conv"),
        ("--translation dw_conv --set share_chanels=true", "the nearest valid one is share_channels"),
        ("", "give a NAME"),
    ],
)
def test_bad_input_is_one_line(arguments: str, named: str, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
