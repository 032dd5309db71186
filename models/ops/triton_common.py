"""What all Triton kernels share: the device they run on, and tile sizes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import accumulation_dtype


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


def power_of_two(n: int, least: int = 1, most: int = 1 << 20) -> int:
    """The next power of two from n on, within limits."""
    return min(most, max(least, triton.next_power_of_2(n)))


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """The dtype that sums are kept in."""
    return tl.float64 if accumulation_dtype(dtype) == torch.float64 else tl.float32


def tuned(configs: list[dict[str, int]], key: list[str]) -> Callable[[Any], Any]:
    """Measure the configurations at the first call of each shape and keep the fastest; in the interpreter the first.

    A configuration maps the kernel's block sizes and `num_warps` to values.
    """
    if interpreted():
        configs = configs[:1]
    parsed = []
    for config in configs:
        blocks = {name: value for name, value in config.items() if name != "num_warps"}
        parsed.append(triton.Config(blocks, num_warps=config["num_warps"]))
    return triton.autotune(configs=parsed, key=key)
