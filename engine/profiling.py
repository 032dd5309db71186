"""``train.profile``: a trace of a few steps, to be opened in a trace viewer."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from engine.distributed import World

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
