"""What all Triton kernels share: the device they run on and what it holds, places in the map, matrix products."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from . import reference
from .reference import accumulation_dtype

Operator = TypeVar("Operator", bound=Callable[..., Any])

_SHARED_BUDGET = 101_376  # sm_86, sm_89
# What did not fit: operators with the size and dtype of their first map.
_refused: set[tuple[object, ...]] = set()


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Launch on the GPU that holds x. On a CPU the kernels run in Triton's interpreter only."""
    if x.device.type == "cuda":
        return torch.cuda.device(x.device)
    if not interpreted():
        raise RuntimeError("the Triton kernels need a GPU; on a CPU set TRITON_INTERPRET=1 before Python starts")
    return nullcontext()


def shared_budget(x: Tensor) -> int:
    """Bytes of shared memory that one program should use at most on the GPU that holds x.

    What the smallest card from sm_80 on has, so that two or more programs share a larger one; older cards have less.
    """
    if x.device.type == "cpu":
        return _SHARED_BUDGET
    properties = triton.runtime.driver.active.utils.get_device_properties(x.device.index)
    return min(_SHARED_BUDGET, properties["max_shared_mem"])


def or_plain(operator: Operator) -> Operator:
    """Where a kernel does not fit the GPU: the function of that name in `reference`, and one warning in a process."""
    plain = getattr(reference, operator.__name__)

    @wraps(operator)
    def call(x: Tensor, *rest: Any) -> Any:
        key = (operator.__name__, x.device, x.dtype, *x.shape[1:], *(r for r in rest if isinstance(r, int)))
        if key not in _refused:
            try:
                return operator(x, *rest)
            except (OutOfResources, PTXASError) as error:
                if not _refused:
                    text = (
                        f"{operator.__name__} on {tuple(x.shape)} in {x.dtype}: the Triton kernel does not fit this GPU"
                    )
                    warnings.warn(f"{text} ({error}); plain PyTorch, which is slower, takes over", stacklevel=2)
                _refused.add(key)
        return plain(x, *rest)

    return call  # type: ignore[return-value]


def power_of_two(n: int, least: int = 1, most: int = 1 << 20) -> int:
    """The next power of two from n on, within limits."""
    return min(most, max(least, triton.next_power_of_2(n)))


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """The dtype that sums are kept in."""
    return tl.float64 if accumulation_dtype(dtype) == torch.float64 else tl.float32


@triton.jit
def place(pid, positions, height, width, BLOCK_P: tl.constexpr):
    """Positions of a program: the first, those from it on, row, column, and whether they exist.

    Only the first needs 64 bits, as a pointer's offset; the rest count from it in 32.
    """
    p = tl.arange(0, BLOCK_P)
    index = pid * BLOCK_P + p
    return (pid * BLOCK_P).to(tl.int64), p, (index // width) % height, index % width, index < positions


@triton.jit
def moved(p, row, column, exists, by_row, by_column, height, width):
    """The positions moved inside their image, and whether they are still in it."""
    r, c = row + by_row, column + by_column
    inside = exists & (r >= 0) & (r < height) & (c >= 0) & (c < width)
    return p + by_row * width + by_column, inside


@triton.jit
def product(a, b, total, ACC: tl.constexpr, UPCAST: tl.constexpr):
    """total plus a matrix product, in ACC. UPCAST is for the interpreter, whose NumPy has no bfloat16."""
    if UPCAST:
        a, b = a.to(ACC), b.to(ACC)
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
