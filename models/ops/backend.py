"""Which implementation runs (`LOCAL_OPS` in the environment, `use_backend` in code), and autocast of the operators."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

BACKENDS = ("auto", "reference", "cpu", "triton")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise UserError(f"LOCAL_OPS: {name!r} is not a backend (one of: {', '.join(BACKENDS)})")
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
        UserError: no such backend.
    """
    global _chosen
    before, _chosen = _chosen, _checked(name)
    try:
        yield
    finally:
        _chosen = before


_portable = False


@contextmanager
def portable() -> Iterator[None]:
    """Inside the block only PyTorch's own operators run, on all threads: what is recorded there, for any batch and map
    size, runs where this package is not installed.
    """
    global _portable
    before, _portable = _portable, True
    try:
        yield
    finally:
        _portable = before


def recorded_for_others() -> bool:
    """Whether a graph is being made that others will run: in :func:`portable`, and in an export to ONNX."""
    return _portable or torch.onnx.is_in_onnx_export()


def watched_by_others() -> bool:
    """Whether a tool that is not PyTorch's own looks at every operator that runs (ptflops counts them so). It knows
    convolutions and products, not operators of a project.
    """
    if torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():
        return False
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return any(type(mode).__module__.partition(".")[0] != "torch" for mode in modes)


@cache
def triton_works() -> bool:
    """Whether Triton is there and can launch kernels on this machine's GPUs; a warning says why not.

    PyTorch's CPU builds come without it. Its launcher is compiled at first use, by a C compiler and with the headers of
    Python, which images for running programs lack.
    """
    try:
        import triton
    except ImportError:
        return False
    try:
        _ = triton.runtime.driver.active.utils
    except Exception as error:  # whatever the compiler and the driver may say
        text = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Triton cannot start here ({text}); plain PyTorch, which is slower, takes over", stacklevel=2)
        return False
    return True


def backend_for(x: Tensor) -> str:
    """The implementation for a tensor: "reference", "cpu" or "triton"."""
    if _chosen != "auto":
        return _chosen
    if x.device.type == "cpu":
        return "cpu"
    # The kernels accumulate in float32, which would lose digits of a float64 map.
    if x.device.type == "cuda" and x.dtype != torch.float64 and triton_works():
        return "triton"
    return "reference"


_SHARED_MODULES = {"reference": "reference", "cpu": "cpu_shared", "triton": "triton_shared"}
_POSITION_MODULES = {"reference": "reference", "cpu": "cpu_position", "triton": "triton_position"}

# Kept alive for as long as the process: dropping it would remove what it registered.
_LIBRARY = torch.library.Library("local_ops", "FRAGMENT")


def shared_kernels(x: Tensor) -> ModuleType:
    """The module that computes static and per-image weights for this tensor; Triton is imported at first use."""
    return import_module(f".{_SHARED_MODULES[backend_for(x)]}", __package__)


def position_kernels(x: Tensor) -> ModuleType:
    """The module that computes per-position weights for this tensor."""
    return import_module(f".{_POSITION_MODULES[backend_for(x)]}", __package__)


def register_autocast(op: Any) -> None:
    """Cast the floating-point inputs of `op` to the dtype of the autocast region, as convolutions do.

    `CustomOpDef.register_autocast` takes one dtype for ever; here the region's own is used.
    """
    overload = op._opoverload
    name = overload._schema.name
    for device in ("cpu", "cuda"):
        _LIBRARY.impl(name, _autocast_kernel(overload, device), f"Autocast{device.upper()}", with_keyset=True)


def _autocast_kernel(overload: Any, device: str) -> Callable[..., Any]:
    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")

    def kernel(keyset: Any, *args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        cast = [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return overload(*cast)

    return kernel
