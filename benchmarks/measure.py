"""Timing side by side, peak memory, and what the machine can do at most."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from data.crop import silent_stderr


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of several rounds and their middle half."""

    median: float
    quarter: float
    three_quarters: float
    rounds: int


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Seconds of one call, as the mean of some calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def interleaved(calls: dict[str, Callable[[], object]], device: str, rounds: int, deadline: float) -> dict[str, Timing]:
    """Time calls in turn, so that a machine's mood meets all alike: one of each per round, two rounds to warm up.

    Short calls are repeated within a round. Rounds end early when `deadline` (time.monotonic) has passed, but never
    before the third.
    """
    repeats = {}
    for name, call in calls.items():
        seconds_of(call, device)
        repeats[name] = max(1, min(20, int(0.1 / max(seconds_of(call, device), 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        if index >= 3 and time.monotonic() > deadline:
            break
        for name, call in calls.items():
            samples[name].append(seconds_of(call, device, repeats[name]))
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values: list[float]) -> Timing:
    quarter, median, three_quarters = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, quarter, three_quarters, len(values))


def peak_memory(call: Callable[[], object], device: str) -> int:
    """Bytes in tensors that one call allocates at its peak, beyond what was there before.

    On a GPU the allocator knows. On a CPU the profiler's record of allocations is added up.
    """
    if device.startswith("cuda"):
        synchronize(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    # The profiler reports its own start and stop on stderr, from C++.
    with silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        call()
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def ceilings(device: str, dtypes: dict[str, torch.dtype]) -> dict[str, float]:
    """What the machine does at most, measured now: GEMM rate in GFLOP/s for each dtype, copy bandwidth in GB/s."""
    size = 8192 if device.startswith("cuda") else 2048
    found = {}
    for name, dtype in dtypes.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[f"gemm_{name}"] = 2 * size**3 / _best(partial(torch.matmul, a, b), device) / 1e9
    source = torch.randn(64 * 1024 * 1024, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / _best(lambda: target.copy_(source), device) / 1e9
    return found


def _best(call: Callable[[], object], device: str) -> float:
    """A ceiling is what is possible, so the fastest of some tries."""
    for _ in range(3):
        call()
    return min(seconds_of(call, device, 3) for _ in range(7))
