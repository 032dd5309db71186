"""One call for every operator of the paper's family, `y_i = sum_j w_ij * x_ij`."""

import torch.nn.functional as F
from torch import Tensor

from . import position, shared
from .backend import recorded_for_others, watched_by_others
from .cpu_shared import all_taps, shared_forward
from .reference import pad_positions


def local_aggregate(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum each position's window of x with weights: `y_i = sum_j w_ij * x_ij + bias`.

    Args:
        x: (B, H, W, C).
        weight: (G, k, k) static, (B, G, k, k) one set per image, or (B, H, W, G, k, k) one set per position.
            G divides C; channel c uses group `c // (C // G)`.
        bias: (C,) or None.

    Returns:
        (B, H, W, C), contiguous. The map is zero-padded by (k - 1) // 2 before and k // 2 after.

    Raises:
        ValueError: a shape does not fit.
    """
    _check(x, weight, bias)
    if recorded_for_others():
        return exported_aggregate(x, weight, bias)
    if watched_by_others():
        return shared_forward(x, weight, bias) if weight.dim() < 6 else exported_aggregate(x, weight, bias)
    if weight.dim() < 6:
        return shared.shared(x, weight, bias)
    out = position.per_position(x, weight)
    return out if bias is None else out + bias.to(out.dtype)


def generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """The inhomogeneous dynamic operator: `w_i = weight @ hidden_i + bias` at each position, then the sum.

    Args:
        x: (B, H, W, C).
        hidden: (B, H, W, D), what the weights are made from.
        weight: (groups * kernel * kernel, D), the output layer of the weight generator.
        bias: (groups * kernel * kernel,) or None.
        groups: sets of weights at each position; divides C.
        kernel: window size.

    Returns:
        (B, H, W, C), contiguous.

    Raises:
        ValueError: a shape does not fit.
    """
    if x.dim() != 4 or hidden.shape[:3] != x.shape[:3]:
        raise ValueError(f"x {tuple(x.shape)} and hidden {tuple(hidden.shape)} must agree in (B, H, W)")
    if weight.shape != (groups * kernel * kernel, hidden.shape[-1]) or x.shape[-1] % groups:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit {groups} groups of {kernel}x{kernel}")
    if recorded_for_others() or watched_by_others():
        return exported_generate_and_aggregate(x, hidden, weight, bias, groups, kernel)
    return position.generate_and_aggregate(x, hidden, weight, bias, groups, kernel)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (B, H, W, C), got {tuple(x.shape)}")
    if weight.dim() not in (3, 4, 6) or weight.shape[: weight.dim() - 3] != x.shape[: max(weight.dim() - 3, 0)]:
        raise ValueError(
            f"weight {tuple(weight.shape)} must be (G,k,k), (B,G,k,k) or (B,H,W,G,k,k) for {tuple(x.shape)}"
        )
    if x.shape[-1] % weight.shape[-3]:
        raise ValueError(f"{weight.shape[-3]} groups do not divide {x.shape[-1]} channels")
    if bias is not None and bias.shape != x.shape[-1:]:
        raise ValueError(f"bias {tuple(bias.shape)} must be ({x.shape[-1]},)")


def exported_aggregate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `models.ops.local_aggregate`, in operators that ONNX has, for any batch and map size: a convolution, or a sum
    over shifted maps.
    """
    if weight.dim() == 3:
        return all_taps(x, weight, bias)
    batch, height, width, channels = x.shape
    groups, rows, columns = weight.shape[-3:]
    padded = pad_positions(x, rows, columns).reshape(
        batch, height + rows - 1, width + columns - 1, groups, channels // groups
    )
    if weight.dim() == 4:
        weight = weight[:, None, None]
    out: Tensor | None = None
    for row in range(rows):
        for column in range(columns):
            shifted = padded[:, row : row + height, column : column + width]
            term = weight[..., row, column].unsqueeze(-1) * shifted
            out = term if out is None else out + term
    assert out is not None
    out = out.reshape(batch, height, width, channels)
    return out if bias is None else out + bias


def exported_generate_and_aggregate(
    x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, kernel: int
) -> Tensor:
    """As `models.ops.generate_and_aggregate`."""
    generated = F.linear(hidden, weight, bias).unflatten(-1, (groups, kernel, kernel))
    return exported_aggregate(x, generated, None)
