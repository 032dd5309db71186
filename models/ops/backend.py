"""Which implementation runs: `LOCAL_OPS` in the environment, or `use_backend` in code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "cpu", "triton")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"LOCAL_OPS: {name!r} is not a backend (one of: {', '.join(BACKENDS)})")
    return name


def _from_environment() -> str:
    """The value of LOCAL_OPS. It was typed by a user, so a wrong one ends the program with a line, not a traceback."""
    try:
        return _checked(os.environ.get("LOCAL_OPS", "auto"))
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


_chosen = _from_environment()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the implementation of every operator inside the block, on all threads.

    Args:
        name: "auto" takes the fastest for the device, "reference" plain PyTorch, "cpu" the cache-blocked code, "triton"
            the GPU kernels (on a CPU only in Triton's interpreter, `TRITON_INTERPRET=1`).

    Raises:
        ValueError: no such backend.
    """
    global _chosen
    before, _chosen = _chosen, _checked(name)
    try:
        yield
    finally:
        _chosen = before


def triton_available() -> bool:
    """Whether Triton can be imported; PyTorch's CPU builds come without it."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def backend_for(x: Tensor) -> str:
    """The implementation for a tensor: "reference", "cpu" or "triton"."""
    if _chosen != "auto":
        return _chosen
    if x.device.type == "cpu":
        return "cpu"
    # The kernels accumulate in float32, which would lose digits of a float64 map.
    if x.device.type == "cuda" and x.dtype != torch.float64 and triton_available():
        return "triton"
    return "reference"
