"""Every training step as a function of the weights, the seed and the step's number, so that a resumed run repeats it.

A sample draws its augmentations from (seed, pass, batch, place in the batch, rank), a step all its other random
numbers from (seed, iteration, rank): no random state has to be kept, and what else draws in between, such as a
validation, changes nothing. The batches before the resumed one are passed over without reading their images.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Dataset

from data.rng import preserved_generators
from data.workers import end_with_parent
from models.errors import UserError


def seed_all(*key: int) -> None:
    """Seed Python's, numpy's and torch's generators with what follows from ``key``."""
    value = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@contextmanager
def drawing_from(*key: int) -> Iterator[None]:
    """Random numbers that follow from ``key`` inside; outside, the generators stay as they were."""
    with preserved_generators():
        seed_all(*key)
        yield


class Place(NamedTuple):
    """An index of the data set and the key of its random numbers."""

    at: int
    key: tuple[int, ...]


@DATASETS.register_module()
class ReplayedDataset(Dataset):
    """A data set of the library whose samples follow from their :class:`Place`; everything else is the data set's."""

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.dataset = DATASETS.build(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place) -> Any:
        with drawing_from(*place.key):
            return self.dataset[place.at]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@DATA_SAMPLERS.register_module()
class ReplayedBatches:
    """The batches of ``inner``, or plain ones, as places; the next pass begins at batch ``start``."""

    def __init__(self, sampler: Any, batch_size: int, seed: int, inner: Any = None, drop_last: bool = False) -> None:
        arguments = {"sampler": sampler, "batch_size": batch_size}
        self._batches = (
            DATA_SAMPLERS.build(inner, default_args=arguments)
            if inner is not None
            else BatchSampler(**arguments, drop_last=drop_last)
        )
        self.sampler, self.seed, self.start = sampler, seed, 0  # the library sets the sampler's epoch
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Place]]:
        start, self.start = self.start, 0
        epoch, rank = getattr(self.sampler, "epoch", 0), get_rank()
        for number, batch in enumerate(self._batches):
            if number >= start:
                yield [Place(at, (self.seed, epoch, number, order, rank)) for order, at in enumerate(batch)]


@HOOKS.register_module()
class ReplayHook(Hook):
    """Begins at the batch after the last one that a checkpoint has seen, and seeds each step."""

    priority = "VERY_HIGH"
    _images: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Pass over the batches that were trained."""
        loop = runner.train_loop
        batches = loop.dataloader.batch_sampler
        self._check_same_batches(runner)
        if not isinstance(loop, IterBasedTrainLoop):
            batches.start = runner.iter - runner.epoch * len(batches)  # at the end of an epoch: all of them
        elif isinstance(batches.sampler, InfiniteSampler) and hasattr(loop.dataloader_iterator, "skip_iter"):
            # The library's own way reads all images up to there.
            loop.dataloader_iterator.skip_iter = partial(setattr, batches, "start")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep how many images an iteration has, by which a place among the batches is known again."""
        checkpoint["images_per_iteration"] = _images_per_iteration(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember how many it had; checkpoints of before December 2026 do not say."""
        self._images = checkpoint.get("images_per_iteration")

    def _check_same_batches(self, runner: Runner) -> None:
        before, now = self._images, _images_per_iteration(runner)
        if runner.iter and before not in (None, now):
            raise UserError(
                f"--resume: the run was begun with {before} images an iteration over all processes, now it has {now}: "
                f"the batches that it has seen are not known; go on with {before}"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Stochastic depth, dropout and sampled boxes follow from the step."""
        seed_all(runner.seed, runner.iter, get_rank())


def _images_per_iteration(runner: Runner) -> int:
    return runner.train_loop.dataloader.batch_sampler.batch_size * get_world_size()


@FUNCTIONS.register_module()
def start_worker(worker_id: int) -> None:
    """In a loader worker, before its first sample."""
    end_with_parent()


def make_exact(config: Config, seed: int) -> None:
    """Change a config so that its run is a function of ``seed``, whole or resumed."""
    config.randomness = {**config.get("randomness", {}), "seed": seed}
    loader = config.train_dataloader
    loader.dataset = {"type": "ReplayedDataset", "dataset": loader.dataset}
    loader.batch_sampler = {
        "type": "ReplayedBatches",
        "seed": seed,
        "inner": loader.get("batch_sampler"),
        "drop_last": loader.pop("drop_last", False),
    }
    for split in ("train", "val"):
        if config.get(f"{split}_dataloader"):
            config[f"{split}_dataloader"].setdefault("worker_init_fn", {"type": "start_worker"})
    config.custom_hooks = [*config.get("custom_hooks", []), {"type": "ReplayHook"}]
