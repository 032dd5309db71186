"""Counter-based random numbers: the same on each machine and for each version of the libraries.

The order of samples and the seeds of augmentations come from here, so a run that is resumed under
another numpy or torch sees the same samples. The mixer is SplitMix64 (Steele, Lea, Flood, 2014).
"""

import numpy as np

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
