"""What both operator libraries share: choosing the implementation, and autocast."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.ops.backend import backend_for

_SHARED_MODULES = {"reference": "reference", "cpu": "cpu_shared", "triton": "triton_shared"}
_POSITION_MODULES = {"reference": "reference", "cpu": "cpu_position", "triton": "triton_position"}

# Kept alive for as long as the process: dropping it would remove what it registered.
_LIBRARY = torch.library.Library("local_ops", "FRAGMENT")


def shared_kernels(x: Tensor) -> ModuleType:
    """The module that computes static and per-image weights for this tensor; Triton is imported at first use."""
    return import_module(f"models.ops.{_SHARED_MODULES[backend_for(x)]}")


def position_kernels(x: Tensor) -> ModuleType:
    """The module that computes per-position weights for this tensor."""
    return import_module(f"models.ops.{_POSITION_MODULES[backend_for(x)]}")


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
