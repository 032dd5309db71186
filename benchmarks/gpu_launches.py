"""Every Triton launch of a training step, found without a GPU: the step runs on fake tensors, and launches are noted.

The operators run the very code that launches on a GPU, on tensors that have a shape and no memory. What a kernel is
compiled for (dtypes, constants, which sizes are multiples of 16) is what Triton's own binder makes of its arguments.
"""

import ast
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import JITFunction, driver

import models
from models.ops import position, products, shared, triton_generated, triton_position, triton_shared, use_backend
from models.zoo import SIZES

_OPERATORS = (
    shared.shared,
    shared.shared_grad_input,
    shared.shared_grad_weight,
    position.per_position,
    position.per_position_backward,
    position.generate_and_aggregate,
    position.generate_and_aggregate_backward,
    products.products,
)


@dataclass(frozen=True)
class Launch:
    """One call of a kernel: tensors stand as their dtypes."""

    kernel: JITFunction
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    grid: tuple[int, ...]
    blocks: int = 1
    """Blocks of the model that launch so."""

    @property
    def name(self) -> str:
        """The kernel's name in the source."""
        return self.kernel.fn.__name__.strip("_").removesuffix("_kernel")

    def compiled(self, capability: int) -> Any:
        """What Triton compiles for a GPU of that capability (80 for sm_80): nothing is launched.

        Raises:
            RuntimeError, and Triton's own errors: the compiler refuses the kernel.
        """
        with _pretended(capability):
            return self.kernel.warmup(*self.arguments, grid=self.grid, **self.constants)

    @property
    def variant(self) -> str:
        """A digest of all that the compiled program depends on: launches of one variant run the same program."""
        kinds = [str(a) if isinstance(a, torch.dtype) else _kind(a) for a in self.arguments]
        constants = sorted((key, str(value)) for key, value in self.constants.items())
        text = f"{_source(self.kernel, set())} {kinds} {constants}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def trips(self) -> tuple[int, ...]:
        """How often the kernel's loops run, the outer one first."""
        sizes = dict(zip(self.kernel.arg_names, self.arguments, strict=False)) | self.constants
        taps = sizes["KERNEL_H"] * sizes["KERNEL_W"]
        loops = {
            "forward": lambda: (sizes["KERNEL_W"],),
            "grad_weight": lambda: (triton.cdiv(sizes["width"], sizes["TILE_W"]),),
            "aggregate": lambda: (taps,),
            "grad_hidden": lambda: (triton.cdiv(sizes["COLUMNS"], sizes["BLOCK_N"]), taps),
            "grad_generator": lambda: (sizes["tiles"],),
        }
        return loops[self.name]()


def _kind(size: int) -> str:
    """What Triton compiles apart: one, multiples of 16, and numbers of more than 32 bits."""
    return f"{size == 1} {size % 16 == 0} {size >= 2**31}"


def _source(kernel: JITFunction, seen: set[str]) -> str:
    """The code of a kernel and of the functions that it calls, without comments."""
    seen.add(kernel.fn.__name__)
    code = [ast.unparse(kernel.parse())]
    for name in kernel.fn.__code__.co_names:
        called = kernel.fn.__globals__.get(name)
        if isinstance(called, JITFunction) and name not in seen:
            code.append(_source(called, seen))
    return "\n".join(code)


class _Pretended(DriverBase):
    """A driver without a device. The capability is also the device's number, as Triton keeps its caches by device."""

    def __init__(self, capability: int) -> None:
        super().__init__()
        self.capability = capability

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _pretended(capability: int) -> Iterator[None]:
    with patch.object(driver, "_active", _Pretended(capability)):
        yield


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Note what is launched inside the block; nothing runs."""
    launches: list[Launch] = []

    def launch(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        size = grid(constants) if callable(grid) else grid
        plain = tuple(argument.dtype if isinstance(argument, Tensor) else argument for argument in args)
        launches.append(Launch(kernel, plain, constants, tuple(size)))

    with ExitStack() as stack:
        stack.enter_context(use_backend("triton"))
        stack.enter_context(patch.object(JITFunction, "run", launch))
        for module in (triton_shared, triton_position, triton_generated):
            stack.enter_context(patch.object(module, "on_device", lambda x: nullcontext()))
        for operator in _OPERATORS:
            stack.enter_context(patch.object(operator, "_abstract_fn", operator._init_fn))
        yield launches


def launches_of(name: str, dtype: torch.dtype, batch: int = 128, size: int = 224) -> list[Launch]:
    """The launches of a training step of a model, forward and backward, by one mixer of each stage.

    Args:
        name: a model of the zoo; the mixers of a stage launch alike, and nothing else in a model launches.
        dtype: of the autocast region; float32 is none.
        batch: images.
        size: side of the images in pixels.
    """
    with torch.device("meta"):
        model: Any = models.create_model(name, img_size=size, depths=(1, 1, 1, 1))
    with FakeTensorMode(), recorded() as launches:
        depths = SIZES[name.rpartition("_")[2]]["depths"]
        for blocks, info, stage in zip(depths, model.feature_info, model.stages, strict=True):
            side = size // info["reduction"]
            x = torch.empty(batch, side, side, info["num_chs"], requires_grad=True)
            mixer = stage.blocks[0].mixer
            state = {key: torch.empty(value.shape, dtype=value.dtype) for key, value in mixer.named_buffers()}
            for key, value in mixer.named_parameters():
                state[key] = torch.empty(value.shape, requires_grad=True)
            before = len(launches)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                out = functional_call(mixer, state, x)
            out.sum().backward()
            launches[before:] = [replace(launch, blocks=blocks) for launch in launches[before:]]
    return launches
