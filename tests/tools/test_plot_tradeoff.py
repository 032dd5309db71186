"""plot.py tradeoff: what it draws from, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from matplotlib.text import Text
from whole_records import sweep_result, sweep_row

from models.errors import UserError
from tools import plot
from tools.sweeps.report import SweepRow

ROWS = [sweep_row(name=name, config=f"configs/{name}.yaml", params=2_000_000, macs=5_000_000) for name in ("a", "b")]
SPEED = {
    "groups": [
        {
            "work": {"mode": "inference", "dtype": "fp32", "batch": 8, "device": "cpu"},
            "rows": [
                {"model": "configs/a.yaml", "images_per_second": 10.0},
                {"model": "configs/b.yaml+fuse", "images_per_second": 20.0},
            ],
        }
    ]
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["plot.py", "tradeoff", *arguments])
    return plot.main()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(sweep_result(ROWS)))
    return path


def test_each_panel_holds_the_value_of_each_run(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(SPEED))
    found = plot.panels([SweepRow(**row) for row in ROWS], plot.read_speed(path))
    assert [values for _, values in found] == [{"a": 2.0, "b": 2.0}, {"a": 5.0, "b": 5.0}, {"a": 10.0, "b": 20.0}]
    with pytest.raises(UserError, match=r"configs/c\.yaml was not timed"):
        plot.panels([SweepRow(**sweep_row(name="c", config="configs/c.yaml"))], plot.read_speed(path))


def test_a_config_that_was_timed_twice_is_refused(tmp_path: Path) -> None:
    """As it is and fused: one of the two speeds would go by the other's name."""
    (group,) = SPEED["groups"]
    rows = [*group["rows"], {"model": "configs/a.yaml+fuse", "images_per_second": 30.0}]
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"groups": [group | {"rows": rows}]}))
    with pytest.raises(UserError, match=r"configs/a\.yaml was timed more than once"):
        plot.read_speed(path)


def test_no_word_covers_another_where_points_lie_close() -> None:
    """Four runs in nearly one place; the boxes of all words are those that matplotlib draws."""
    names = ["Swin", "D-DW-Conv", "DW-Conv, shared across channels", "I-Dynamic"]
    rows = [
        SweepRow(**sweep_row(name=name, label=name, params=2_000_000 + index, macs=5_000_000 + index))
        for index, name in enumerate(names)
    ]
    figure = plot.tradeoff_figure("a title", rows, plot.panels(rows, None))
    figure.canvas.draw()
    words = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    shown = [text.get_text() for text in words]
    assert [shown.count(name) for name in names] == [1, 1, 1, 1]
    named = [text for text in words if text.get_text() in [*names, "a title", "parameters (M)", "multiply-adds (M)"]]
    boxes = [text.get_window_extent() for text in named]
    assert not [(a, b) for index, a in enumerate(boxes) for b in boxes[index + 1 :] if a.overlaps(b)]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 for box in boxes)


def test_it_draws_an_image(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "new" / "figure.png"
    assert run(monkeypatch, str(results), "--output", str(image)) == 0
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["{}", "[1", '{"groups": []}'])
def test_a_file_that_is_no_report_is_refused(
    text: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "speed.json"
    path.write_text(text)
    assert run(monkeypatch, str(results), "--speed", str(path)) == 2
    assert "no report of one comparison" in capsys.readouterr().err
    assert run(monkeypatch, str(results), "--speed", str(tmp_path / "none.json")) == 2
    assert "none.json: No such file" in capsys.readouterr().err
