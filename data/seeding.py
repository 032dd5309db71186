"""Seeds of the three generators that augmentations draw from (python, numpy, torch)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from data.hashing import hash64


def seed_sample(seed: int, epoch: int, index: int, repeat: int = 0) -> None:
    """Seed python, numpy and torch for one sample, from (seed, epoch, index) alone.

    `repeat` numbers the copies of one image under repeated augmentation. `torch.manual_seed` is not
    used because it also reaches for CUDA, which a worker must not do and which costs milliseconds.
    """
    value = hash64(seed, epoch, index, repeat)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Give the caller's generators back as they were: a loader in the main process must not disturb dropout."""
    state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.default_generator.set_state(state[2])
