"""Broken images and dying workers: replaced and counted, or an error that names them; never a hang."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data import Batch, CorruptImageError, DataConfig, TrainLoader, WorkerError, build_eval_loader, build_train_loader
from data.readers.folder import FolderReader
from models.errors import UserError

DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 8,
    "header only": lambda content: content[:200],
    "pickle": lambda content: b"cos\nsystem\n(S'echo unsafe'\ntR.",
}


@pytest.fixture
def copied(image_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(image_folder, tmp_path / "images")
    return tmp_path / "images"


def damage(root: Path, kind: str, name: str = "train/class_1/3.jpg") -> Path:
    path = root / name
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    return path


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(**{"root": root, "workers": 0, "max_corrupt": 0.1, **changes})


def run_epoch(cfg: DataConfig) -> tuple[list[Batch], dict]:
    loader = build_train_loader(cfg, img_size=40, batch_size=6, seed=5)
    batches = list(loader.epoch(0))
    loader.close()
    return batches, loader.replaced


def pids(loader: TrainLoader) -> list[int]:
    return loader._pipeline.pool.pids


@pytest.mark.parametrize("kind", sorted(DAMAGE))
@pytest.mark.parametrize("fast", [True, False])
def test_a_corrupt_image_is_replaced_counted_and_named(copied: Path, kind: str, fast: bool):
    path = damage(copied, kind)
    batches, replaced = run_epoch(config(copied, fast_decode=fast))
    (entry,) = replaced.values()
    assert str(path) in entry.reason or ["train", "class_1/3.jpg"][1] in entry.reason
    assert entry.by != entry.index
    carried = [(batch, change) for batch in batches for change in batch.replaced]
    assert len(carried) == 1
    batch, change = carried[0]
    place = batch.indices.tolist().index(change.index)
    loader = build_train_loader(config(copied), img_size=40, batch_size=6)
    assert batch.targets[place] == loader.records.labels[change.by]


def test_the_replacement_does_not_depend_on_workers(copied: Path):
    damage(copied, "cut")
    damage(copied, "garbage", "train/class_2/0.jpg")
    results = [run_epoch(config(copied, workers=workers)) for workers in (0, 2)]
    assert results[0][1] == results[1][1]
    for first, second in zip(results[0][0], results[1][0], strict=True):
        assert first.images.equal(second.images) and first.replaced == second.replaced


def test_too_many_corrupt_images_end_the_run(copied: Path):
    damage(copied, "cut")
    with pytest.raises(UserError, match=r"1 of 42 training images cannot be read, above data.max_corrupt=0.001.*3.jpg"):
        run_epoch(config(copied, max_corrupt=0.001))


def test_all_corrupt_ends_instead_of_drawing_forever(copied: Path):
    for path in (copied / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="drawn in its place cannot be read either"):
        run_epoch(config(copied, max_corrupt=1.0))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_names_the_file(copied: Path, workers: int):
    damage(copied, "cut", "val/class_2/4.jpg")
    loader = build_eval_loader(config(copied, workers=workers), img_size=40, batch_size=4)
    with pytest.raises(CorruptImageError, match=r"class_2/4.jpg"):
        list(loader)
    loader.close()


def test_a_file_that_vanishes_is_named(copied: Path):
    loader = build_eval_loader(config(copied), img_size=40, batch_size=4)
    (copied / "val/class_0/2.jpg").unlink()
    with pytest.raises(CorruptImageError, match=r"class_0/2.jpg: cannot be read"):
        list(loader)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_is_named_at_once(copied: Path, victim: int):
    loader = build_train_loader(config(copied, workers=2), img_size=40, batch_size=2, seed=5)
    batches = loader.epoch(0)
    next(batches)
    pid = pids(loader)[victim]
    others = pids(loader)
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(WorkerError, match=rf"loader worker {victim} \(pid {pid}\) died: SIGKILL at epoch 0"):
        list(batches)
    assert time.monotonic() - started < 5
    assert not any(Path(f"/proc/{other}").exists() for other in others)
    assert len(list(loader.epoch(1))) == 21  # a new epoch starts new workers
    loader.close()


def test_a_stalled_worker_is_named_after_the_timeout(copied: Path):
    loader = build_train_loader(config(copied, workers=1, timeout=1.0), img_size=40, batch_size=2, seed=5)
    batches = loader.epoch(0)
    next(batches)
    os.kill(pids(loader)[0], signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"loader worker 0 .* gave no batch for 1 s \(data.timeout\)"):
        list(batches)
    assert time.monotonic() - started < 5


def test_workers_leave_signals_of_the_job_to_the_main_process(copied: Path):
    loader = build_train_loader(config(copied, workers=1), img_size=40, batch_size=2, seed=5)
    batches = loader.epoch(0)
    next(batches)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(pids(loader)[0], number)
    assert len(list(batches)) == 20
    loader.close()


def test_a_fault_in_our_own_code_ends_the_worker_with_an_error(copied: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: FolderReader, index: int):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(FolderReader, "open", broken)
    loader = build_train_loader(config(copied, workers=1), img_size=40, batch_size=2)
    with pytest.raises(
        WorkerError, match=r"loader worker 0 .* failed: RuntimeError: a fault of the program at epoch 0"
    ):
        next(loader.epoch(0))


def test_workers_end_when_the_main_process_is_killed(copied: Path):
    """A killed run must leave no processes that hold memory."""
    read, write = os.pipe()
    main = os.fork()
    if main == 0:
        loader = build_train_loader(config(copied, workers=2), img_size=40, batch_size=2)
        next(loader.epoch(0))
        os.write(write, np.array(pids(loader), dtype=np.int64).tobytes())
        time.sleep(60)
        os._exit(0)
    workers = np.frombuffer(os.read(read, 16), dtype=np.int64).tolist()
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    deadline = time.monotonic() + 12
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
