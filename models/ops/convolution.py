"""A depth-wise convolution with its ReLU, for inference: one oneDNN call on a CPU, elsewhere the common operator."""

import torch
from torch import Tensor

from models.ops.api import local_aggregate
from models.ops.backend import backend_for
from models.ops.linear import onednn_takes, runs_eagerly


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
