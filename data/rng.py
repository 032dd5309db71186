"""Counter-based random numbers, and the seeds made from them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def hash64(*values: int) -> int:
    """Hash whole numbers of any size to 64 bits. The order of the values matters."""
    state = 0
    for value in values:
        state = _mix((state + _GAMMA + (value & _MASK)) & _MASK)
    return state


def hash64_array(key: int, count: int) -> np.ndarray:
    """Return uint64 (count,): a hash of each of 0 ... count-1 under one key."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(key & _MASK)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def permutation(key: int, count: int) -> np.ndarray:
    """Return int64 (count,): a permutation of 0 ... count-1 that depends on the key alone."""
    return np.argsort(hash64_array(key, count), kind="stable")


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
