"""A list as long as ImageNet: opens in seconds from its index and costs a worker almost no memory."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.image_list import ImageList
from data.index import load_index, save_index
from data.rng import hash64, permutation
from data.sampler import epoch_order

COUNT = 1_281_167

MEASURE = """
import json, os, pickle, sys, time
import numpy as np
from data.index import load_index
from data.readers.folder import FolderReader
from pathlib import Path

def private_kib():  # pages of its own; clean pages of a mapped file belong to the system, once for all workers
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

started = time.perf_counter()
reader = FolderReader(Path("/nowhere"), 1, load_index(Path(sys.argv[1]))[0])
seconds = time.perf_counter() - started
pickled = len(pickle.dumps(reader))
pid = os.fork()
if pid == 0:  # a worker, after it has read every label and many names
    before = private_kib()
    total = int(reader.records.labels.sum())
    names = [len(reader.records.name(int(i))) for i in np.random.default_rng(0).integers(0, len(reader.records), 20000)]
    print(json.dumps({"seconds": seconds, "pickled": pickled, "worker_kib": private_kib() - before, "sum": total}))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def long_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 1.28 million names such as n01440764/n01440764_10026.JPEG."""
    labels = (np.arange(COUNT) * 1000 // COUNT).astype(np.int32)
    names = "".join(f"n{label:08d}/n{label:08d}_{number:07d}.JPEG" for number, label in enumerate(labels.tolist()))
    packed = np.frombuffer(names.encode(), dtype=np.uint8)
    ends = np.arange(1, COUNT + 1, dtype=np.int64) * (len(packed) // COUNT)
    path = tmp_path_factory.mktemp("index") / "train.folder.index"
    save_index(ImageList(packed, ends, labels, [f"n{label:08d}" for label in range(1000)]), path, "made")
    return path


def test_names_and_labels_come_back(long_index: Path):
    records, source = load_index(long_index)
    assert (len(records), source, len(records.classes)) == (COUNT, "made", 1000)
    for index in (0, 1, 777_777, COUNT - 1):
        label = int(records.labels[index])
        assert records.name(index) == f"n{label:08d}/n{label:08d}_{index:07d}.JPEG"


def test_memory_of_a_worker_and_time_to_open(long_index: Path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(long_index)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = json.loads(done.stdout)
    assert found["sum"] == int((np.arange(COUNT) * 1000 // COUNT).sum())
    assert found["seconds"] < 2
    assert found["pickled"] < 20_000  # the names of 1,000 classes
    assert found["worker_kib"] < 10_000  # the list itself has 60,000


def test_the_order_of_an_epoch_is_a_permutation_and_quick():
    started = time.perf_counter()
    order, copies = epoch_order(3, 7, COUNT)
    assert time.perf_counter() - started < 5
    assert np.array_equal(np.sort(order), np.arange(COUNT)) and not copies.any()
    assert abs(np.corrcoef(order, np.arange(COUNT))[0, 1]) < 0.01


def test_the_order_is_fixed_for_all_time():
    """A run must be resumable under other versions of the libraries."""
    assert permutation(hash64(1, 2), 8).tolist() == [2, 7, 3, 1, 5, 6, 0, 4]
    assert hash64(0, 0, 0) == 2558736989570252433


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_augmentation(repeats: int):
    order, copies = epoch_order(3, 7, 1024, repeats, block=256)
    assert len(order) == 1024
    pairs = set(zip(order.tolist(), copies.tolist(), strict=True))
    assert len(pairs) == 1024  # each copy has a number of its own, so an augmentation of its own
    distinct, counts = np.unique(order, return_counts=True)
    assert counts.max() == repeats and len(distinct) == pytest.approx(1024 / repeats, rel=0.02)
    assert (order[0::2] != order[1::2]).all()  # partners of mixup are different images
    for start in range(0, 1024, 256):
        assert len(np.unique(order[start : start + 256])) == -(-256 // repeats)
