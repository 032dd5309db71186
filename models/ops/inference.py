"""Linear and depth-wise calls of fused models."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .aggregate import local_aggregate
from .backend import backend_for

ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "gelu": F.gelu}


def runs_eagerly(x: Tensor) -> bool:
    """Whether x is on a CPU, needs no gradient, and nothing records the operators that run."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_grad_enabled()
        and not torch._C._len_torch_dispatch_stack()  # FLOP counters, fake tensors
    )


class PackedWeight:
    """A weight in the layout that oneDNN multiplies with, made at the first use and again when the weight changed.

    Without it each call reorders the weight: a twentieth of the time of a fused model. Copies and files leave it out.
    """

    def __init__(self) -> None:
        self._source: Tensor | None = None  # keeps the memory, so that no other weight can come to lie at its address
        self._version = 0
        self._packed: Tensor | None = None

    def get(self, weight: Tensor, rows: int) -> Tensor:
        """The packed form of weight (D, C), for products with about as many rows."""
        version = 0 if weight.is_inference() else weight._version
        if self._packed is None or version != self._version or not self._is_source(weight):
            self._source, self._version = weight.detach(), version
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._source, rows)
        return self._packed

    def _is_source(self, weight: Tensor) -> bool:
        source = self._source
        return source is not None and source.data_ptr() == weight.data_ptr() and source.dtype == weight.dtype

    def __reduce__(self) -> tuple[type["PackedWeight"], tuple[()]]:
        return PackedWeight, ()


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    residual: Tensor | None = None,
    packed: PackedWeight | None = None,
) -> Tensor:
    """`activation(x @ weight.T + bias) + residual` on the last axis of x.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,) or None.
        activation: "none", "relu" or "gelu" (by the error function).
        residual: (..., D) or None; only without an activation.
        packed: keeps the weight in oneDNN's layout between calls.
    """
    if runs_eagerly(x) and onednn_takes(x, weight) and (residual is None or _can_add(residual, x, activation)):
        factor = weight if packed is None else packed.get(weight, x.numel() // x.shape[-1])
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, factor, bias, activation, [], "none")
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual.contiguous(), factor, bias, "add")
    out = ACTIVATIONS[activation](F.linear(x, weight, bias))
    return out if residual is None else out + residual


def _can_add(residual: Tensor, x: Tensor, activation: str) -> bool:
    return activation == "none" and residual.dtype == x.dtype


def onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies these two."""
    known = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and takes_bfloat16())
    usual = known and x.dtype == weight.dtype and x.numel() > 0
    return usual and bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


@cache
def takes_bfloat16() -> bool:
    """Whether this processor has what oneDNN's products of bfloat16 need (AVX-512 or newer)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def depthwise_relu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`relu(local_aggregate(x, weight, bias))` for static weights.

    Args:
        x: (B, H, W, C).
        weight: (G, k, k); G divides C.
        bias: (C,) or None.

    Returns:
        (B, H, W, C).
    """
    groups, height, width = weight.shape
    simple = groups == x.shape[-1] and height % 2 == 1 and width % 2 == 1
    if simple and runs_eagerly(x) and backend_for(x) == "cpu" and onednn_takes(x, weight):
        planes, padding, ones = x.permute(0, 3, 1, 2), [height // 2, width // 2], [1, 1]
        out = torch.ops.mkldnn._convolution_pointwise(
            planes, weight.unsqueeze(1), bias, padding, ones, ones, groups, "relu", [], ""
        )
        return out.permute(0, 2, 3, 1).contiguous()
    out = local_aggregate(x, weight, bias)
    return out.relu_() if runs_eagerly(out) else out.relu()
