"""A linear layer with its activation, for inference: one oneDNN call on a CPU, plain PyTorch elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """`activation(x @ weight.T + bias) + residual` on the last axis of x.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,) or None.
        activation: "none", "relu" or "gelu" (by the error function).
        residual: (..., D) or None; only without an activation.
    """
    if runs_eagerly(x) and _onednn_takes(x, weight):
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
        if activation == "none" and residual.dtype == x.dtype:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual.contiguous(), weight, bias, "add")
    out = ACTIVATIONS[activation](F.linear(x, weight, bias))
    return out if residual is None else out + residual


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    known = x.dtype in (torch.float32, torch.bfloat16) and x.dtype == weight.dtype and x.numel() > 0
    return known and bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)
