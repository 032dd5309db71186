"""`make reproduce`: what it finds, evaluates, keeps, records and compares, on made-up files of the released form."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from whole_records import eval_result

from engine.errors import RunStopped
from engine.weights import file_hash
from models.cost import Cost
from models.released import released
from tests.stand_in.sets import likely_labels, make_imagenet, make_tables, seen_labels
from tests.stand_in.weights import content
from tools import reproduce
from tools.reproduction import evaluations, report, runner
from tools.reproduction.evaluations import Evaluation, plan
from tools.reproduction.places import Place
from tools.tables.entries import build_entries
from tools.tables.loading import TABLES, load_table, load_tables
from tools.tables.render import cells, footnotes
from tools.tables.results import load_records


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, arguments)])
    return reproduce.main()


# What is evaluated and kept. The commands are small programs here.


FOUND = {"top1": 50.0, "top5": 75.0, "correct1": 2, "correct5": 3, "images": 4, "checkpoint_sha256": "a" * 64}
FOUND["settings"] = {"model.name": "dw_conv_tiny"}


MACS = {"tiny": (3.7733e9, 3.8019e9, 4.538e9), "base": (12.9115e9, 13.0024e9, 15.53e9)}  # PAPER: the paper's counter
COUNTED = {
    f"configs/imagenet/{family}_{size}.yaml": macs
    for size, all_macs in MACS.items()
    for family, macs in zip(("dw_conv", "d_dw_conv", "swin"), all_macs, strict=True)
}


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building six models to count them takes seconds; other tests do."""
    monkeypatch.setattr(evaluations, "count", lambda config, counter: Cost(0, round(COUNTED[config])))


def evaluation(tmp_path: Path, model: str = "dw_conv_tiny", **changes: Any) -> Evaluation:
    values = {"release": released(model), "place": Place(tmp_path, 4), "folder": tmp_path / "out", **changes}
    values["folder"].mkdir(exist_ok=True)
    return Evaluation(**values)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """{file of the release: Python that is run in place of the evaluation}; weights need no network."""
    codes: dict[str, str] = {}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(runner, "fetch", lambda release, progress: Path("w"))
    monkeypatch.setattr(
        Evaluation, "command", lambda self, weights, processes: [sys.executable, "-c", codes[self.release.file]]
    )
    return codes


def count_and_print(tmp_path: Path) -> str:
    """Leave a byte for each run, and print the JSON line among others."""
    line = json.dumps(FOUND)
    return f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\nprint('log'); print({line!r}); print('bye')"


def test_a_stop_keeps_what_is_finished_and_the_same_command_goes_on(programs: dict[str, str], tmp_path: Path) -> None:
    one, two = evaluation(tmp_path), evaluation(tmp_path, "swin_tiny")
    programs[one.release.file] = count_and_print(tmp_path)
    programs[two.release.file] = (
        f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60); print('{json.dumps(FOUND)}')"
    )
    before = signal.getsignal(signal.SIGTERM)
    lines: list[str] = []
    seen = []
    with pytest.raises(RunStopped):
        seen += list(runner.run_all([one, two], 1, lines.append))
    assert signal.getsignal(signal.SIGTERM) is before
    assert one.result.is_file() and not two.result.is_file()
    programs[two.release.file] = count_and_print(tmp_path)
    found = {each.name: result for each, result in runner.run_all([one, two], 1, lines.append)}
    assert (tmp_path / "runs").read_text() == "xx"  # each once
    assert {name: result["top1"] for name, result in found.items()} == {one.name: 50.0, two.name: 50.0}
    assert "2 evaluations, 1 of them finished before" in lines
    assert lines[-1].startswith("[2/2] swin_tiny_patch4_window7_224.pth, classification: done in 00:00:0")


def test_a_failure_is_said_and_the_next_one_runs(programs: dict[str, str], tmp_path: Path) -> None:
    one, two = evaluation(tmp_path), evaluation(tmp_path, "swin_tiny")
    programs[one.release.file] = "import sys; print('error: the disk is gone\\n=== torchrun ==='); sys.exit(1)"
    programs[two.release.file] = count_and_print(tmp_path)
    found = {each.name: result for each, result in runner.run_all([one, two], 1, lambda text: None)}
    assert str(found[one.name]).startswith("the disk is gone (status 1, all of it in ")
    assert found[two.name]["images"] == 4 and not one.result.is_file()


def test_what_is_kept_is_of_these_images_and_these_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    weights = tmp_path / "hub" / "hub" / "checkpoints" / "dwnet_tiny_224.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    one = evaluation(tmp_path)
    kept = one.keep({**FOUND, "checkpoint_sha256": file_hash(weights)}, 1.5)
    assert one.kept() == kept and kept["wall_seconds"] == 1.5
    assert evaluation(tmp_path, place=Place(tmp_path, 5)).kept() is None
    assert evaluation(tmp_path, place=Place(tmp_path / "hub", 4)).kept() is None
    assert evaluation(tmp_path, labels="real").kept() is None
    for settings in ({"model.name": "dw_conv_tiny", "data.crop_pct": 1.0}, None):
        one.keep({**kept, "settings": settings}, 1.5)
        assert one.kept() is None
    one.keep(kept, 1.5)
    weights.write_bytes(b"other weights")
    assert one.kept() is None
    weights.unlink()  # to have the space back
    assert one.kept() == kept


def test_the_time_left_is_that_of_the_same_task(tmp_path: Path) -> None:
    """Table 2: DW-Conv-B costs 12.9115 G, DW-Conv-T 3.7733 G, so 3.42 times as much."""
    tiny, base = evaluation(tmp_path), evaluation(tmp_path, "dw_conv_base")
    box = evaluation(tmp_path, release=released("dw_conv_tiny", "detection"))
    clock = runner.Clock([base, box])
    assert clock.left() == "2 to come whose speed is not known yet"
    clock.took(tiny, 100.0)
    assert clock.left() == "about 00:05:42 left and 1 to come whose speed is not known yet"
    clock.took(tiny, 25.0, done=0.5)
    assert clock.left(running=8.0) == "about 00:02:59 left and 1 to come whose speed is not known yet"


@pytest.mark.parametrize(("line", "share"), [
    ("Epoch(test) [ 50/200]    eta: 0:01:00", 0.25),
    ("evaluation [3/4], 00:00:10 left\nsomething else", 0.75),
    ("no such thing", None),
])  # fmt: skip
def test_the_share_that_is_done_is_read_from_both_logs(tmp_path: Path, line: str, share: float | None) -> None:
    (tmp_path / "log").write_text("x" * 90_000 + "\n" + line)
    assert runner.progress(tmp_path / "log") == share


def test_the_plan_takes_the_cheaper_first_and_all_that_is_there(tmp_path: Path) -> None:
    places = {"classification": Place(tmp_path, 50_000), "segmentation": Place(tmp_path, 2000)}
    found = plan(places, tmp_path, None, [])  # type: ignore[arg-type]
    assert [each.labels for each in found] == ["original"] * 6 + ["real"] * 6 + ["original"] * 6
    assert [each.release.model for each in found[:3]] == ["dw_conv_tiny", "d_dw_conv_tiny", "swin_tiny"]
    assert len({each.name for each in found}) == 18
    (part,) = plan({"segmentation": Place(tmp_path, 2000)}, tmp_path, 50, ["swin_base"])  # type: ignore[arg-type]
    assert (part.images, part.release.file) == (50, "upernet_swin_base_patch4_window7_512x512.pth")


def test_several_gpus_are_torchruns(tmp_path: Path) -> None:
    command = evaluation(tmp_path, labels="real", part=3).command(Path("w.pth"), 4)
    assert command[:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert command[5].endswith("eval_cls.py") and {"eval.labels=real", "eval.images=3"} < set(command)


# The numbers.


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_the_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    """The examples of Newcombe (1998), method 3."""
    assert report.wilson(right, images) == pytest.approx((low, high), abs=5.1e-3)


def test_the_table_has_the_papers_number_and_the_readmes(tmp_path: Path) -> None:
    """PAPER: DW-Conv-B 51.1 / 44.2 in Table 3, 51.0 / 44.1 in the README of its release."""
    box = evaluation(tmp_path, release=released("dw_conv_base", "detection"))
    values = {"coco/bbox_mAP": 0.5123, "coco/segm_mAP": 0.44, "coco/bbox_mAP_50": -1, "coco/bbox_mAP_75": None}
    lines = report.as_text(report.measures(box, {**values, "eval_images": 5000}), load_tables(), intervals=True)
    rows = {line.split()[1]: line.split() for line in lines.splitlines()[2:]}
    assert rows["box_ap"][2:8] == ["5,000", "51.1", "51.0", "51.23", "+0.13", "+0.23"]
    assert rows["mask_ap"][2:8] == ["5,000", "44.2", "44.1", "44.00", "-0.20", "-0.10"]
    assert rows["box_ap"][8:] == ["none", "for", "AP", "and", "mIoU"] and "box_ap75" not in rows


def test_wrong_arguments_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    for arguments, message in (
        (["--images", 0], "--images 0: at least 1"),
        (["--gpus", 99], "--gpus 99: this machine has"),
        (["--only", "i_dynamic_tiny"], "--only i_dynamic_tiny: no released weights; the nearest valid one is"),
        ([], "have no validation set; wanted is ImageNet"),
    ):
        assert run(monkeypatch, tmp_path, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


# All of it, with a classifier of full size.


@pytest.fixture
def full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DW-Conv-T under the authors' name on a mirror; four pictures, three of which have the class it sees in them."""
    release = released("dw_conv_tiny")
    weights = content(release)
    (tmp_path / "mirror").mkdir()
    torch.save(weights, tmp_path / "mirror" / release.file)
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    make_imagenet(tmp_path / "data" / "imagenet", seen_labels(weights["model"], "dw_conv_tiny", range(1, 5)))
    images = {"classification": 4, "detection": 4, "segmentation": 4}
    make_tables(tmp_path / "tables", images, real_images=3)


def test_a_release_of_full_size_from_its_file_to_the_cells(
    full_size: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    tables, command = tmp_path / "tables", Evaluation.command

    def one_by_program(self: Evaluation, weights: Path, processes: int) -> list[str]:
        if self.labels == "original":
            return command(self, weights, processes)
        line = eval_result(model="dw_conv_tiny", labels="real", dataset="imagenet", images=3, top1=66.5)
        return [sys.executable, "-c", f"print({json.dumps(line | {'checkpoint_sha256': file_hash(weights)})!r})"]

    monkeypatch.setattr(Evaluation, "command", one_by_program)
    arguments = [tmp_path / "data", "--only", "dw_conv_tiny", "--output", tmp_path / "out", "--tables", tables]
    assert run(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "segmentation: missing: ADE20K" in out and "dwnet_tiny_224.pth: classification and ReaL on 4 images" in out
    top1, real = load_records(tables)
    assert top1.metrics["top1"] == 75.0 and real.metrics == {"real": 66.5}
    assert top1.release == "dwnet_tiny_224.pth" and top1.kind == "evaluated"
    assert top1.checkpoint_sha256 == file_hash(tmp_path / "mirror" / "dwnet_tiny_224.pth")
    for name in ("2", "4", "8", "11"):
        table = load_table(tables / f"table{name}.yaml")
        rows = [row for row in table.rows if row.config_of("classification") == released("dw_conv_tiny").config]
        table = table.model_copy(update={"rows": rows})  # the others' costs need not be counted
        entries = build_entries(table, {}, load_records(tables))
        (line,) = cells(table, entries)[1:]
        assert "75.00" in line and "released weights" in line[-1]
        assert any("released weights, dwnet_tiny_224.pth on imagenet" in note for note in footnotes(table, entries))
    row = next(line.split() for line in out.splitlines() if line.startswith("dwnet_tiny_224  top1"))
    assert row[2:] == ["4", "81.3", "81.2", "75.00", "-6.30", "-6.20"]

    monkeypatch.setattr(evaluations.Evaluation, "command", lambda *_: pytest.fail("evaluated again"))
    assert run(monkeypatch, *arguments) == 0
    assert "2 evaluations, 2 of them finished before" in (again := capsys.readouterr().out)
    assert "recorded before in" in again and len(load_records(tables)) == 2
    monkeypatch.setattr(reproduce, "add_record", lambda *_: pytest.fail("recorded in the paper's tables"))
    refused = reproduce.record(evaluation(tmp_path), TABLES)
    assert "not recorded: imagenet: 4 images were evaluated; the rows of table 2 are on the 50000" in refused


def test_a_first_look_has_an_interval_and_fills_nothing(
    programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make_imagenet(tmp_path / "imagenet", likely_labels(5))
    make_tables(tmp_path / "tables", {"classification": 4}, 4)
    programs["dwnet_tiny_224.pth"] = count_and_print(tmp_path)
    places = ["--output", tmp_path / "out", "--tables", tmp_path / "tables"]
    assert run(monkeypatch, tmp_path, "--only", "dw_conv_tiny", "--images", 4, *places) == 0
    out = capsys.readouterr().out
    expected = binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert f"{100 * expected.low:.2f} to {100 * expected.high:.2f}" in out and "fills no cell" in out
    assert load_records(tmp_path / "tables") == []
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.json")} == {"first_4"}


def test_weights_that_cannot_be_had_are_a_failure_of_theirs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make_imagenet(tmp_path / "imagenet", likely_labels(1))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path / "empty"))
    assert run(monkeypatch, tmp_path, "--only", "swin_tiny", "--output", tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("swin_tiny_patch4_window7_224.pth" in line for line in lines)
