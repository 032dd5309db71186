"""Where the time of training goes: rates, waits and memory over the steps since the last log line."""

import resource
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from engine.distributed import World
from engine.records import StepRecord
from engine.step import StepResult


class Meter:
    """Collects steps and says their means.

    Args:
        images: images of one optimiser step over all ranks.
    """

    def __init__(self, images: int, world: World) -> None:
        self._images = images
        self._world = world
        self._start()

    def _start(self) -> None:
        self._losses: list[float] = []
        self._steps = 0
        self._seconds = self._data = 0.0
        self._last: StepResult | None = None

    def add(self, result: StepResult) -> None:
        """Count what one step did."""
        if result.taken:
            self._losses.append(result.loss)
        self._last = result

    def spend(self, seconds: float, data_seconds: float) -> None:
        """Count the ``seconds`` of one step, of which ``data_seconds`` were spent waiting for the loader."""
        self._steps += 1
        self._seconds += seconds
        self._data += data_seconds

    def report(self, step: int, epoch: int, left: int) -> StepRecord:
        """Means over the steps since the last report, then begin anew. ``left`` steps are still to do.

        Seconds are per step, memory is the peak of this process on the GPU, or in RAM on the CPU.
        """
        assert self._last is not None
        seconds = max(1e-9, self._seconds) / self._steps
        values = StepRecord(
            step=step,
            epoch=epoch,
            loss=sum(self._losses) / len(self._losses) if self._losses else None,
            lr=self._last.lr,
            grad_norm=self._last.grad_norm if self._last.taken else None,
            images_per_second=self._images / seconds,
            step_seconds=seconds,
            data_seconds=self._data / self._steps,
            memory_gib=peak_memory(self._world.device),
            eta_seconds=seconds * left,
        )
        self._start()
        return values


def peak_memory(device: torch.device) -> float:
    """GiB: the most that torch has held on the GPU, or that the process has held in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


WAIT, WARM, ACTIVE = 4, 2, 3  # steps before, discarded, and kept


class StepProfiler:
    """Records steps 6 to 8 of this process into ``profile/rank0.json``, and then does nothing."""

    def __init__(self, folder: Path, world: World, wanted: bool) -> None:
        self._profiler: profile | None = None
        if not wanted:
            return
        self.path = folder / "profile" / f"rank{world.rank}.json"
        self.path.parent.mkdir(exist_ok=True)
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self._profiler = profile(
            activities=kinds,
            schedule=schedule(wait=WAIT, warmup=WARM, active=ACTIVE, repeat=1),
            on_trace_ready=lambda p: p.export_chrome_trace(str(self.path)),
            profile_memory=True,
        )
        self._profiler.start()

    def step(self) -> None:
        """One training step has ended."""
        if self._profiler is not None:
            self._profiler.step()

    def close(self) -> None:
        """Write what there is, if the run ends early."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
