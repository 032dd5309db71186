"""plot_curves: what it reads from run folders, what it draws, and what it refuses."""

import json
import sys
from pathlib import Path

import matplotlib.image
import pytest

from models.errors import UserError
from tools import plot
from tools.plot import Curve, draw_curves, read_curve


def write_run(folder: Path, epochs: int, tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"kind": "step", "step": 1, "epoch": 1, "loss": 2.0})]
    for epoch in range(1, epochs + 1):
        record = {"kind": "epoch", "epoch": epoch, "step": epoch, "skipped": 0, "train_loss": 2.0 / epoch}
        record["replaced_images"] = 0
        lines.append(json.dumps(record | ({"top1": 50.0 + epoch} if epoch % 2 == 0 else {})))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n" + tail, encoding="utf-8")
    return folder


def test_epochs_and_evaluations_are_read(tmp_path: Path) -> None:
    curve = read_curve(write_run(tmp_path / "swin", 4))
    assert curve.label == "swin"
    assert curve.loss == [(1, 2.0), (2, 1.0), (3, 2.0 / 3), (4, 0.5)]
    assert curve.score == [(2, 52.0), (4, 54.0)]


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    assert len(read_curve(write_run(tmp_path / "run", 2, '{"kind": "ep')).loss) == 2


def test_the_figure_has_ink_on_both_sides(tmp_path: Path) -> None:
    points = [(epoch, 100.0 / epoch) for epoch in range(1, 9)]
    draw_curves([Curve(str(index), points, points) for index in range(12)], tmp_path / "a" / "curves.png")
    image = matplotlib.image.imread(tmp_path / "a" / "curves.png")[..., :3]
    half = image.shape[1] // 2
    coloured = (image.max(axis=2) - image.min(axis=2)) > 0.3
    assert coloured[:, :half].sum() > 500
    assert coloured[:, half:].sum() > 500


def test_the_loss_stands_on_the_left_and_the_score_on_the_right(tmp_path: Path, monkeypatch) -> None:
    figures = []
    with monkeypatch.context() as patch:
        patch.setattr(plot.plt, "close", figures.append)
        draw_curves([Curve("a", [(1, 2.0)], [(1, 50.0)])], tmp_path / "curves.png")
    shown = [(axis.get_ylabel(), axis.lines[0].get_ydata()) for axis in figures[0].axes]
    plot.plt.close(figures[0])
    assert shown == [("training loss", [2.0]), ("validation top-1 (%)", [50.0])]
    assert figures[0].axes[0].get_position().x1 < figures[0].axes[1].get_position().x0


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["plot.py", "curves", *arguments])
    assert plot.main() == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def test_what_is_no_run_is_refused_by_name(monkeypatch, capsys, tmp_path: Path) -> None:
    write_run(tmp_path / "swin", 1)
    err = refused(monkeypatch, capsys, str(tmp_path / "swim"))
    assert f"{tmp_path / 'swim'}: no config.yaml, log.jsonl or result.json, so this is no run folder" in err
    assert f"the nearest valid one is {tmp_path / 'swin'}" in err


def test_names_and_runs_must_be_as_many(monkeypatch, capsys, tmp_path: Path) -> None:
    write_run(tmp_path / "swin", 1)
    assert "--labels: 2 names for 1 runs" in refused(monkeypatch, capsys, str(tmp_path / "swin"), "--labels", "a,b")
    assert "must end in .png" in refused(monkeypatch, capsys, str(tmp_path / "swin"), "--output", "x.jpeg2")


def test_a_broken_log_names_its_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 1)
    path = folder / "log.jsonl"
    path.write_text("no json\n" + path.read_text(), encoding="utf-8")
    with pytest.raises(UserError, match=r"log\.jsonl: line 1 is no JSON record"):
        read_curve(folder)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no epoch has ended yet"):
        read_curve(folder)


def write_dense(folder: Path, metric: str, epochs: bool) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"kind": "validation", "epoch": at if epochs else None, "iteration": 10 * at, "train_loss": 3.0 / at}
        | {"metrics": {"aAcc": 1.0, metric: 0.1 * at}}
        for at in (1, 2)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_detectors_and_segmentors_have_curves(monkeypatch, capsys, tmp_path: Path) -> None:
    boxes = read_curve(write_dense(tmp_path / "a" / "seed0", "coco/bbox_mAP", True))
    assert boxes == Curve("seed0", [(1, 3.0), (2, 1.5)], [(1, 10.0), (2, 20.0)], "box AP", "epoch")
    areas = read_curve(write_dense(tmp_path / "b" / "seed0", "mIoU", False))
    assert areas == Curve("seed0", [(10, 3.0), (20, 1.5)], [(10, 0.1), (20, 0.2)], "mIoU (%)", "iteration")
    err = refused(monkeypatch, capsys, str(tmp_path / "a" / "seed0"), str(tmp_path / "b" / "seed0"))
    assert "box AP over epochs and mIoU (%) over iterations do not go into one figure" in err


def test_runs_are_named_by_what_tells_them_apart() -> None:
    def names(*folders: str) -> list[str]:
        return plot.run_labels([Path(folder) for folder in folders])

    assert names("/r/swin/seed0") == ["seed0"]
    assert names("/r/swin/seed0", "/r/dw/seed0") == ["swin", "dw"]
    assert names("/r/swin/seed0", "/r/swin/seed1") == ["seed0", "seed1"]
    assert names("/r/swin/seed0", "/r/dw/seed1") == ["swin/seed0", "dw/seed1"]
    assert len(set(names("/r/swin", "/r/a/swin", "/r/b/swin"))) == 3
