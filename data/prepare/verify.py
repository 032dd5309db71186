"""Verification of a prepared split: counts, order of the classes, and files that cannot be read."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from data.classes import load_classes
from data.config import DataConfig
from data.decode import decode
from data.errors import CorruptImageError
from data.readers import Split, open_reader

IMAGES = {"train": 1_281_167, "val": 50_000}  # of ImageNet-1K


@dataclass(frozen=True)
class Report:
    """What was found in a split. `unreadable` is None where images were not checked."""

    split: Split
    images: int
    classes: int
    synsets: str
    smallest: int
    largest: int
    unreadable: list[str] | None

    @property
    def is_imagenet(self) -> bool:
        """Whether counts and order of the classes are those of ImageNet-1K."""
        return self.images == IMAGES[self.split] and self.synsets == "as ImageNet-1K"


def verify(cfg: DataConfig, split: Split, check: str, jobs: int, progress: Callable[[int], object]) -> Report:
    """Check a split: `none`, the `headers` of all images, or `decode` them all, in `jobs` processes."""
    records = open_reader(cfg, split).records
    counts = [int((records.labels == label).sum()) for label in range(len(records.classes))]
    unreadable = None if check == "none" else sorted(_unreadable(cfg, split, check, jobs, len(records), progress))
    return Report(
        split, len(records), len(records.classes), _order(records.classes), min(counts), max(counts), unreadable
    )


def _order(classes: list[str]) -> str:
    official = load_classes("imagenet").names
    if classes == official:
        return "as ImageNet-1K"
    if set(classes) <= set(official):
        ascending = all(first < second for first, second in pairwise(classes))
        return (
            f"{len(classes)} of the 1000 ImageNet-1K synsets, {'in their order' if ascending else 'in another order'}"
        )
    example = next(name for name in classes if name not in official)
    return f"other classes than ImageNet-1K, e.g. {example}"


def _unreadable(
    cfg: DataConfig, split: Split, check: str, jobs: int, count: int, progress: Callable[[int], object]
) -> Iterator[str]:
    step = max(1, min(500, count // (4 * jobs) or 1))
    ranges = [(cfg, split, check, start, min(start + step, count)) for start in range(0, count, step)]
    if jobs == 1:
        results = map(_check_range, ranges)
        yield from _collect(results, ranges, progress)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from _collect(pool.map(_check_range, ranges), ranges, progress)


def _collect(results: Iterator[list[str]], ranges: list, progress: Callable[[int], object]) -> Iterator[str]:
    for found, (*_, start, end) in zip(results, ranges, strict=True):
        progress(end - start)
        yield from found


_READERS: dict = {}  # of a worker process: opening an archive's list again for each range would cost more than reading


def _check_range(task: tuple[DataConfig, Split, str, int, int]) -> list[str]:
    """Return one line for each image of a range that cannot be read."""
    cfg, split, check, start, end = task
    key = cfg.model_dump_json(), split
    if key not in _READERS:
        _READERS.clear()
        _READERS[key] = open_reader(cfg, split)
    reader = _READERS[key]
    found = []
    for index in range(start, end):
        try:
            image = reader.open(index)
            if check == "decode":
                decode(image, cfg.channels)
        except CorruptImageError as error:
            found.append(str(error))
    return found
