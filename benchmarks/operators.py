"""The operators by themselves at the shape of stage 1, beside the library's convolution."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import interleaved
from benchmarks.specs import DTYPES, Work
from models.ops import generate_and_aggregate
from models.ops.shared import shared, shared_grad_input, shared_grad_weight

SIDE, CHANNELS, KERNEL, GROUPS = 56, 96, 7, 32


def operator_rows(work: Work, copy_bandwidth: float, rounds: int, deadline: float) -> list[dict[str, Any]]:
    """One row for each operator: milliseconds, and the share of `copy_bandwidth` (GB/s) that its least traffic takes.

    The least traffic is one map read and one written (two read for a gradient of weights).
    """
    dtype = DTYPES[work.dtype]
    x = torch.randn(work.batch, SIDE, SIDE, CHANNELS, device=work.device).to(dtype)
    calls = {**_shared_calls(x), **_generated_calls(x)}
    timings = interleaved(calls, work.device, rounds, deadline)
    traffic = 2 * x.nbytes / 1e9
    return [
        {
            "operator": name,
            "milliseconds": timing.median * 1e3,
            "quarters": [timing.quarter * 1e3, timing.three_quarters * 1e3],
            "share_of_copy": traffic / timing.median / copy_bandwidth,
        }
        for name, timing in timings.items()
    ]


def _shared_calls(x: Tensor) -> dict[str, Callable[[], Any]]:
    batch = x.shape[0]
    grad = torch.randn_like(x)
    static = torch.randn(CHANNELS, KERNEL, KERNEL, device=x.device).to(x.dtype)
    image = torch.randn(batch, CHANNELS, KERNEL, KERNEL, device=x.device).to(x.dtype)
    nhwc = x.permute(0, 3, 1, 2)
    planes = nhwc.reshape(1, batch * CHANNELS, SIDE, SIDE)
    calls: dict[str, Callable[[], Any]] = {
        "static, F.conv2d": lambda: F.conv2d(nhwc, static[:, None], padding=KERNEL // 2, groups=CHANNELS),
        "per image, F.conv2d": lambda: F.conv2d(
            planes, image.flatten(0, 1)[:, None], padding=KERNEL // 2, groups=batch * CHANNELS
        ),
    }
    for name, weight in (("static", static), ("per image", image)):
        calls[f"{name}, ours"] = partial(shared, x, weight, None)
        calls[f"{name}, gradient of the input, ours"] = partial(shared_grad_input, grad, weight)
        calls[f"{name}, gradient of the weights, ours"] = partial(shared_grad_weight, grad, x, weight)
    return calls


def _generated_calls(x: Tensor) -> dict[str, Callable[[], Any]]:
    hidden = torch.randn(*x.shape[:3], CHANNELS // 4, device=x.device).to(x.dtype)
    weight = torch.randn(GROUPS * KERNEL**2, CHANNELS // 4, device=x.device).to(x.dtype)
    bias = torch.randn(GROUPS * KERNEL**2, device=x.device).to(x.dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, hidden, weight, bias)]
    own_x, own_hidden, own_weight, own_bias = leaves

    def both() -> None:
        out = generate_and_aggregate(own_x, own_hidden, own_weight, own_bias, GROUPS, KERNEL)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return {
        "generated per position, ours": lambda: generate_and_aggregate(x, hidden, weight, bias, GROUPS, KERNEL),
        "generated per position, with all gradients, ours": both,
    }
