"""bfloat16 autocast on any device; the library's own AMP refuses the CPU and scales a loss that needs no scale."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward pass runs under bfloat16 autocast."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(get_device().split(":")[0], dtype=torch.bfloat16):
            yield
