"""What the training loop costs the host between two steps, without a model: ``python benchmarks/loop.py``.

A GPU waits for whatever the main process does with a batch before the step. Two ways take turns, from a worker's bytes
to what the step gets: normalised to floats in the main process, as for a CPU; and sent as bytes to a device that
normalises. The device has no memory here (meta), so that its side costs only the calls; the copy into page-locked
memory is made, into ordinary memory.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=2.0, help="rounds end early after that")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.measure import interleaved
from data.batch import Normalizer, RawBatch
from data.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from data.rng import seed_sample
from data.sampler import BatchKey
from data.transforms import draw_erased
from data.upload import Upload
from models.errors import UserError
from tools.text import aligned


class MetaUpload(Upload):
    """Sends to a device without memory, through ordinary memory in place of the page-locked one."""

    def __init__(self) -> None:
        super().__init__(torch.device("meta"), pin_memory=False)
        self._kept: dict[torch.dtype, Tensor] = {}

    def send(self, values: Tensor) -> Tensor:
        """Copy as into page-locked memory, which torch keeps and gives out again."""
        kept = self._kept.get(values.dtype)
        if kept is None or kept.numel() < values.numel():
            kept = self._kept[values.dtype] = torch.empty(values.numel(), dtype=values.dtype)
        return kept[: values.numel()].view_as(values).copy_(values).to(self.device)


def raw_batch(count: int, size: int) -> RawBatch:
    """Noise as a worker sends it, with the erased boxes of the paper's recipe."""
    draw = np.random.default_rng(0)
    boxes, noise = [], [np.empty(0, np.float32)]
    seed_sample(0, 0, 0, 0)
    for sample in range(count):
        for box in draw_erased(AugmentConfig(), 3, (size, size)):
            boxes.append((sample, box.top, box.left, *box.noise.shape[1:]))
            noise.append(box.noise.numpy().ravel())
    pixels = torch.from_numpy(draw.integers(0, 256, (count, 3, size, size), dtype=np.uint8))
    indices = np.arange(count)
    return RawBatch(BatchKey(0, 0, 0, indices, indices), [0] * count, boxes, np.concatenate(noise), pixels=pixels)


@cli.command("loop")
def main() -> None:
    """Print the table."""
    options = parser().parse_args()
    for name, least in (("batch", 1), ("img_size", 32), ("threads", 1), ("rounds", 2)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(options, name)} is below {least}")
    torch.set_num_threads(options.threads)
    raw = raw_batch(options.batch, options.img_size)
    ways = {
        "floats, made in the main process": Normalizer(
            IMAGENET_MEAN, IMAGENET_STD, Upload(torch.device("cpu"), pin_memory=False)
        ),
        "bytes, normalised by the device": Normalizer(IMAGENET_MEAN, IMAGENET_STD, MetaUpload()),
    }
    calls: dict[str, Callable[[], object]] = {name: partial(way, raw) for name, way in ways.items()}
    timings = interleaved(calls, "cpu", options.rounds, time.monotonic() + 60 * options.minutes)
    first = next(iter(timings.values())).median
    lines = [["a batch between two steps", "ms (middle half)", "times floats"]]
    for name, timing in timings.items():
        low, high = timing.quarter * 1e3, timing.three_quarters * 1e3
        ratio = first / timing.median
        lines.append([name, f"{timing.median * 1e3:.2f} ({low:.2f}-{high:.2f})", f"{ratio:.1f}x"])
    about = report.machine("cpu")
    print(f"{about['processor']}, {about['threads']} threads, torch {about['torch']}")
    print(f"batch {options.batch}, {options.img_size}x{options.img_size}\n{aligned(lines, right=True)}")


if __name__ == "__main__":
    sys.exit(main())
