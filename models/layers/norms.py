"""The norms of Table 9 (LN, BN, CC-BN) and how a layer with NCHW input is applied to NHWC maps."""

import torch
from torch import Tensor, nn


class CenteringBatchNorm2d(nn.Module):
    """Centering calibrated BN (appendix F, Table 9): ``BN(x + w * mean_HW(x))`` with one learned w per channel.

    w starts at 0, so a new module equals plain BN. The input is (B, C, H, W) and is never changed in place: it may be a
    view of the residual. The inner ``bn`` stays an ordinary ``nn.BatchNorm2d`` so that SyncBN conversion finds it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.center_weight = nn.Parameter(torch.zeros(dim))
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return self.bn(x + self.center_weight.view(1, -1, 1, 1) * mean)


NORMS: dict[str, type[nn.Module]] = {
    "ln": nn.LayerNorm,
    "bn": nn.BatchNorm2d,
    "ccbn": CenteringBatchNorm2d,
}


def build_norm(kind: str, dim: int) -> nn.Module:
    """Norm over ``dim`` channels; ``kind`` is a key of :data:`NORMS`. All have eps 1e-5, BN momentum 0.1."""
    if kind not in NORMS:
        raise ValueError(f"norm: {kind!r} is not known (one of: {', '.join(NORMS)})")
    return NORMS[kind](dim)


def apply_nchw(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module that expects (B, C, H, W) to an NHWC map; the permutations are views (channels-last memory)."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply any norm to an NHWC map. BN keeps its NCHW interface, so libraries can swap it for SyncBN."""
    if isinstance(norm, nn.LayerNorm | nn.Identity):
        return norm(x)
    return apply_nchw(norm, x)
