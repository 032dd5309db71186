"""Sweeps: grids, resumption, parallel slots, failures, and mean and standard deviation from the runs' records."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from whole_records import sweep_row

from models.errors import UserError
from tools.sweeps import figure, report, runner
from tools.sweeps.grid import load_grid
from tools.sweeps.jobs import jobs
from tools.sweeps.kept import kept_cells, still_to_train
from tools.sweeps.runner import Sweep, slots

REPO = Path(__file__).resolve().parents[2]
NANO = "configs/quickstart/dw_conv_nano.yaml"

# Stands in for train_cls.py where the test is about the sweep: fails, waits or leaves a record, as the seed says.
FAKE_TRAINER = """
import json, os, pathlib, signal, sys, time
values = dict(text.split("=", 1) for text in sys.argv[3:])
folder, seed = pathlib.Path(values["output"]), int(values["train.seed"])
(folder / "starts").open("a").write("x")
if "train.init_checkpoint" in values:
    assert pathlib.Path(values["train.init_checkpoint"]).exists()
if seed == 7:
    sys.exit(1)
if seed in (9, 11):
    signal.signal(signal.SIGTERM, (lambda *_: sys.exit(75)) if seed == 9 else signal.SIG_DFL)
    (folder / "ready").touch()
    time.sleep(60)
sys.path.insert(0, TESTS)
from whole_records import run_result
top1, gpu = 90.0 + seed, os.environ.get("CUDA_VISIBLE_DEVICES")
if gpu:  # one run at a time has it
    lock = folder.parents[1] / f"gpu{gpu}"
    lock.touch(exist_ok=False)
    time.sleep(0.1)
    lock.unlink()
result = run_result(dataset="MNIST-5k", top1=top1, best_top1=top1, seed=seed, gpu=gpu)
(folder / "last.safetensors").write_bytes(b"w")
(folder / "result.json").write_text(json.dumps(result))
"""

DW = {"name": "dw", "label": "DW", "config": NANO}
SE = {"name": "se", "label": "DW + SE", "config": f"{NANO} model.se=true", "start_from": "dw"}


def write_grid(folder: Path, **changes: object) -> Path:
    grid = {
        "name": "test",
        "title": "A test",
        "seeds": [0, 2],
        "runs": [DW, SE],
        "groups": [
            {"title": "both", "runs": ["dw", "se"]},
            {"title": "curve", "runs": ["dw", "se"], "x": [1.0, 2.0], "xlabel": "channels"},
        ],
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid | changes), encoding="utf-8")
    return path


def trainer(folder: Path) -> Path:
    path = folder / "trainer.py"
    path.write_text(FAKE_TRAINER.replace("TESTS", repr(str(REPO / "tests"))), encoding="utf-8")
    return path


def fake_jobs(folder: Path, **changes: object) -> list:
    work = jobs(load_grid(write_grid(folder, **changes)), folder / "runs", REPO)
    return [replace(job, entry=trainer(folder)) for job in work]


def start(folder: Path, parallel: int = 2, gpus: tuple[str, ...] = (), **changes: object) -> tuple[Sweep, list]:
    work = fake_jobs(folder, **changes)
    return Sweep(work, slots(parallel, list(gpus)), lambda text: None), work


def starts(work: list) -> list[int]:
    return [len((job.output / "starts").read_text()) if (job.output / "starts").exists() else 0 for job in work]


def test_all_runs_run_once_and_are_not_run_again(tmp_path: Path) -> None:
    run, work = start(tmp_path)
    assert run.run()
    assert run.failed == []
    assert starts(work) == [1, 1, 1, 1]
    again, work = start(tmp_path)
    assert again.run()
    assert starts(work) == [1, 1, 1, 1]
    (work[0].output / "result.json").unlink()
    again, work = start(tmp_path)
    assert again.run()
    assert starts(work) == [2, 1, 1, 1]


def test_results_are_mean_and_standard_deviation_over_seeds(tmp_path: Path) -> None:
    run, work = start(tmp_path)
    run.run()
    results = report.collect(load_grid(tmp_path / "grid.yaml"), work, "python tools/sweep.py grid.yaml")
    row = results.rows[0]
    assert (row.mean, row.std) == (91.0, pytest.approx(np.std([90, 92], ddof=1)))
    assert [run["seed"] for run in row.runs] == [0, 2]
    assert row.params < results.rows[1].params  # SE has parameters
    report.save(results, tmp_path / "results.json")
    text = report.as_markdown(tmp_path / "results.json")
    assert "| DW | 28 | " in text
    assert "| 91.00 ± 1.41 | 2 |" in text
    assert "trained at commit `c`. Command: `python tools/sweep.py grid.yaml`" in text
    figure.draw(results, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_every_seed_is_inside_the_picture() -> None:
    """Of five seeds one may lie 1.8 standard deviations away."""
    scores = [30.0, 30.2, 29.9, 30.1, 36.0]
    runs = [{"top1": score, "eval_images": 10_000, "seed": seed} for seed, score in enumerate(scores)]
    row = report.SweepRow(**sweep_row(mean=float(np.mean(scores)), std=float(np.std(scores, ddof=1)), runs=runs))
    low, high = figure.common_limits([row])
    assert low < min(scores) and max(scores) < high


def test_faint_bars_are_the_95_percent_of_a_test_set() -> None:
    """81.3% of ImageNet's 50,000 images: 1.96 times the root of 0.813 x 0.187 / 50,000. An AP is no share of images."""
    runs = [{"top1": 81.3, "eval_images": 50_000, "seed": 0}]
    for task, points in (("classification", 0.342), ("detection", 0.0)):
        row = report.SweepRow(**sweep_row(task=task, mean=81.3, runs=runs))
        assert figure.sampling_error(row) == pytest.approx(points, abs=5e-4)


def test_cells_of_another_day_are_not_trained_again(tmp_path: Path) -> None:
    """A record from elsewhere stands for its runs, until their recipe or that of what they start from is another."""
    run, work = start(tmp_path)
    run.run()
    saved = tmp_path / "saved.json"
    report.save(report.collect(load_grid(tmp_path / "grid.yaml"), work, ""), saved)
    for job in work:
        shutil.rmtree(job.output)
    kept = kept_cells(saved, work)
    assert still_to_train(work, kept) == []
    rows = report.collect(load_grid(tmp_path / "grid.yaml"), work, "", kept).rows
    assert [row.scores for row in rows] == [[90.0, 92.0]] * 2
    more = fake_jobs(tmp_path, seeds=[0, 2, 4])
    left = [(job.run.name, job.seed) for job in still_to_train(more, kept_cells(saved, more))]
    assert left == [("dw", 4), ("se", 4)]
    other = fake_jobs(tmp_path, runs=[DW, SE | {"config": f"{NANO} model.se=true train.lr=0.1"}])
    left = [(job.run.name, job.seed) for job in still_to_train(other, kept_cells(saved, other))]
    assert left == [("dw", 0), ("se", 0), ("dw", 2), ("se", 2)]  # what SE starts from has left no weights here
    same = fake_jobs(tmp_path, runs=[DW | {"config": f"{NANO} train.threads=1 data.workers=3"}, SE])
    assert still_to_train(same, kept_cells(saved, same)) == []
    first = fake_jobs(tmp_path, runs=[DW | {"config": f"{NANO} train.lr=0.1"}, SE])
    assert kept_cells(saved, first) == {}


def test_each_gpu_has_one_run_at_a_time(tmp_path: Path) -> None:
    run, work = start(tmp_path, gpus=("3", "5"))
    run.run()
    assert run.failed == []  # a trainer that finds its GPU taken fails
    assert {json.loads((job.output / "result.json").read_text())["gpu"] for job in work} == {"3", "5"}


def test_each_gpu_is_named_to_one_worker() -> None:
    assert slots(1, ["3", "5"]) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]


@pytest.mark.parametrize(("said", "threads"), [(None, "4"), ("", "4"), ("3", "3")])
def test_jobs_share_the_cores_unless_threads_are_given(monkeypatch, said: str | None, threads: str) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert slots(2, []) == [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * 2


def test_a_failed_run_fails_what_starts_from_it_and_nothing_else(tmp_path: Path) -> None:
    run, work = start(tmp_path, seeds=[7, 0])
    assert run.run()
    assert sorted((job.run.name, job.seed) for job, _ in run.failed) == [("dw", 7), ("se", 7)]
    assert starts(work) == [1, 0, 1, 1]
    results = report.collect(load_grid(tmp_path / "grid.yaml"), work, "")
    assert report.shown_score(results.rows[0]) == "90.00 (1 missing)"


def test_a_folder_that_cannot_be_made_fails_its_run_and_what_starts_from_it(tmp_path: Path) -> None:
    run, work = start(tmp_path, parallel=1)
    work[0].output.parent.mkdir(parents=True)
    work[0].output.write_text("")  # a file where the folder should be
    assert run.run()
    lost = [job for job in work if job.seed == work[0].seed]
    assert {job.output for job, _ in run.failed} == {job.output for job in lost}
    assert starts([job for job in work if job not in lost]) == [1, 1]


@pytest.mark.parametrize("seed", [9, 11])
def test_a_signal_stops_the_runs_and_the_sweep_says_so(tmp_path: Path, seed: int) -> None:
    said: list[str] = []
    work = fake_jobs(tmp_path, seeds=[seed])
    run = Sweep(work, slots(1, []), said.append)

    def interrupt() -> None:
        while not (work[0].output / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the sweep did not watch for signals"))
    try:
        threading.Thread(target=interrupt).start()
        assert not run.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert any(text.startswith(f"dw, seed {seed}: stopped") for text in said)
    assert run.failed == []
    assert starts(work) == [1, 0]


def test_usage_adds_up_over_starts(tmp_path: Path) -> None:
    runner.add_usage(tmp_path, 1.5, 3.0)
    runner.add_usage(tmp_path, 1.0, 2.0)
    assert json.loads((tmp_path / runner.USAGE).read_text()) == {"cpu_seconds": 2.5, "wall_seconds": 5.0}


def test_a_folder_with_another_config_is_refused(tmp_path: Path) -> None:
    _, work = start(tmp_path)
    work[0].output.mkdir(parents=True)
    other = work[0].resolved().model_dump(mode="json")
    other["train"]["epochs"] = 99
    (work[0].output / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match=r"holds a run with train\.epochs = 99, now it is \d+"):
        work[0].is_finished()


def test_a_run_of_another_recipe_is_not_reported_as_this_one(tmp_path: Path) -> None:
    """The grid has changed since: the figure in the folder is not of what the row says, nor better than a saved one."""
    run, work = start(tmp_path, runs=[DW], seeds=[0], groups=[])
    run.run()
    (work[0].output / "config.yaml").write_text(yaml.safe_dump(work[0].resolved().model_dump(mode="json")))
    grid = load_grid(tmp_path / "grid.yaml")
    assert report.collect(grid, work, "").rows[0].scores == [90.0]
    other = fake_jobs(tmp_path, runs=[DW | {"config": f"{NANO} train.epochs=99"}], seeds=[0], groups=[])
    with pytest.raises(UserError, match=r"holds a run with train\.epochs = \d+, now it is 99"):
        report.collect(grid, other, "")
    saved = {**work[0].record(), "top1": 97.0, "recipe": other[0].recipe()}
    assert report.collect(grid, other, "", {other[0].output: saved}).rows[0].scores == [97.0]


@pytest.mark.parametrize("change", ["train.accumulation=2", "eval.precision=bf16", "train.init_checkpoint=w.pth"])
def test_what_changes_a_figure_is_in_the_recipe(tmp_path: Path, change: str) -> None:
    recipes = [
        fake_jobs(tmp_path, runs=[DW | {"config": f"{NANO}{more}"}], groups=[])[0].recipe()
        for more in ("", f" {change}")
    ]
    assert recipes[0] != recipes[1]


def test_a_record_of_other_data_is_not_taken(tmp_path: Path) -> None:
    config = "configs/proxy/dw_conv.yaml"
    here, there = (
        fake_jobs(tmp_path, runs=[DW | {"config": f"{config} data.root=/d/{name}"}], groups=[])[0]
        for name in ("one", "two")
    )
    cell = {"recipe": here.recipe(), "dataset": here.resolved().data.dataset_name}
    assert here.is_of(cell) and not there.is_of(cell)


def test_a_sweep_trains_for_real_and_draws_its_curves(tmp_path: Path) -> None:
    """The whole way with train_cls.py on eight images: two runs, then results, figure and curves."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("dark", "light"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8) + (100 if name == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    config = {
        "model": {"name": "dw_conv_nano", "num_classes": 2, "img_size": 32, "depths": [1, 1], "num_heads": [1, 2]},
        "data": {"root": str(tmp_path / "data"), "workers": 0, "mixup": {"prob": 0.0}},
        "train": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "device": "cpu", "tensorboard": False},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    runs = [{"name": "dw", "label": "DW", "config": str(tmp_path / "tiny.yaml")}]
    runs.append(
        {"name": "next", "label": "next", "config": f"{tmp_path / 'tiny.yaml'} model.window_size=5", "start_from": "dw"}
    )
    grid = write_grid(tmp_path, seeds=[0], runs=runs, groups=[])
    command = [sys.executable, "tools/sweep.py", str(grid), "--output", str(tmp_path / "runs"), "--jobs", "2"]
    done = subprocess.run([*command, "--save", str(tmp_path / "kept.json")], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "kept.json").read_text())
    assert [len(row["runs"]) for row in results["rows"]] == [1, 1]
    assert results["rows"][0]["runs"][0]["cpu_seconds"] > 0
    assert (tmp_path / "kept.png").stat().st_size > 1000
    folders = [str(tmp_path / "runs" / name / "seed0") for name in ("dw", "next")]
    command = ["tools/plot.py", "curves", *folders, "--output", str(tmp_path / "curves.png"), "--labels", "a,b"]
    drawn = subprocess.run([sys.executable, *command], cwd=REPO, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "curves.png").stat().st_size > 1000
