"""The means of a log line, from numbers that a person can add."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from engine import meter
from engine.distributed import World
from engine.meter import Meter, StepProfiler, peak_memory
from engine.step import StepResult

ALONE = World(0, 1, torch.device("cpu"))


def result(loss: float, *, taken: bool = True, norm: float = 3.0, lr: float = 0.25) -> StepResult:
    return StepResult(0, loss, norm, lr, taken, bad=not taken)


def count(meter: Meter, step: StepResult, seconds: float, waited: float) -> None:
    meter.add(step)
    meter.spend(seconds, waited)


def test_a_report_is_the_means_since_the_last_one() -> None:
    meter = Meter(12, ALONE)
    count(meter, result(4.0), 2.0, 0.5)
    count(meter, result(1.0, norm=7.0, lr=0.125), 4.0, 0.0)
    found = meter.report(step=20, epoch=3, left=5)
    assert (found.kind, found.step, found.epoch, found.loss) == ("step", 20, 3, 2.5)
    assert (found.lr, found.grad_norm) == (0.125, 7.0)  # of the last step
    assert (found.step_seconds, found.data_seconds, found.images_per_second) == (3.0, 0.25, 4.0)
    assert found.eta_seconds == 15.0
    count(meter, result(8.0), 1.0, 1.0)
    again = meter.report(21, 3, 4)
    assert (again.loss, again.step_seconds, again.data_seconds, again.eta_seconds) == (8.0, 1.0, 1.0, 4.0)


def test_skipped_steps_count_for_the_time_and_not_for_the_loss() -> None:
    meter = Meter(10, ALONE)
    count(meter, result(2.0), 1.0, 0.0)
    count(meter, result(float("nan"), taken=False), 3.0, 0.0)
    found = meter.report(2, 1, 0)
    assert (found.loss, found.grad_norm, found.step_seconds, found.images_per_second) == (2.0, None, 2.0, 5.0)
    count(meter, result(float("inf"), taken=False), 1.0, 0.0)
    assert meter.report(3, 1, 0).loss is None


def test_no_time_at_all_is_no_division_by_zero() -> None:
    meter = Meter(10, ALONE)
    count(meter, result(2.0), 0.0, 0.0)
    assert 0 < meter.report(1, 1, 1).images_per_second < float("inf")


def test_memory_is_the_peak_of_the_process_or_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
    found = peak_memory(torch.device("cpu"))
    assert kib / 2**20 <= found < 1.1 * kib / 2**20 + 0.1
    seen = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: seen.append(device) or 3 * 2**30)
    gpu = torch.device("cuda", 1)
    assert peak_memory(gpu) == 3.0 and seen == [gpu]
    meter = Meter(1, World(0, 1, gpu))
    count(meter, result(1.0), 1.0, 0.0)
    assert meter.report(1, 1, 0).memory_gib == 3.0


def steps_of(path: Path) -> set[str]:
    events = json.loads(path.read_text())["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep")}


def test_steps_6_to_8_are_traced_and_no_more(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path, World(2, 3, torch.device("cpu")), wanted=True)
    path = tmp_path / "profile" / "rank2.json"
    for number in range(20):  # and not again
        torch.zeros(8).add_(1)
        profiler.step()
        assert path.exists() == (number >= 8)
    profiler.close()
    assert steps_of(path) == {f"ProfilerStep#{number}" for number in (6, 7, 8)}
    assert "Total Allocated" in path.read_text()  # memory, too
    profiler.step()
    profiler.close()  # twice does no harm


def test_without_the_wish_nothing_is_traced(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path, ALONE, wanted=False)
    profiler.step()
    profiler.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_is_traced_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    asked = {}

    class Profile:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def start(self) -> None:
            asked["started"] = True

    monkeypatch.setattr(meter, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    (tmp_path / "profile").mkdir()  # as a run that goes on finds it
    StepProfiler(tmp_path, ALONE, wanted=True)
    assert asked["activities"] == [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + gpu]
    assert asked["started"] and asked["profile_memory"]
