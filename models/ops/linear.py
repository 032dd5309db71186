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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """`activation(x @ weight.T + bias)` on the last axis of x.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,) or None.
        activation: "none", "relu" or "gelu" (by the error function).
    """
    if runs_eagerly(x) and _onednn_takes(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    known = x.dtype in (torch.float32, torch.bfloat16) and x.dtype == weight.dtype and x.numel() > 0
    return known and bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)
