"""--amp bf16: the forward pass of a training step, and it alone, is in bfloat16."""

import pytest
import torch
from mmengine.device import get_device
from torch import nn

from engine.dense.hooks import Bfloat16OptimWrapper

pytestmark = pytest.mark.dense


def test_bfloat16_is_for_the_forward_pass_alone() -> None:
    layer, x = nn.Linear(4, 4).to(get_device()), torch.randn(2, 4, device=get_device())
    wrapper = Bfloat16OptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1))
    with wrapper.optim_context(layer):
        inside = layer(x)
    wrapper.update_params(inside.float().sum())
    assert (inside.dtype, layer(x).dtype, layer.weight.dtype) == (torch.bfloat16, torch.float32, torch.float32)
