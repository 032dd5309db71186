"""ResNets of basic blocks (ResNet-38, -72 and -106 of Table 8, taken by the paper from HRNet's)."""

from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

STEM_WIDTHS = (32, 64)


def basic_block_resnet(
    *,
    layers: tuple[int, int, int, int],
    in_chans: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> ResNet:
    """timm's ResNet of basic blocks behind two 3x3 convolutions with stride 2, without pooling.

    The paper prints only costs for its three; this stem with their layers comes nearest to all of them.

    Args:
        layers: basic blocks of the four stages.
        in_chans, num_classes, drop_rate, drop_path_rate: as in timm.
    """
    model: Any = ResNet(  # timm's types are narrower than what it takes
        BasicBlock,  # type: ignore[arg-type]
        layers,
        in_chans=in_chans,
        num_classes=num_classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    first, second = STEM_WIDTHS
    model.conv1 = nn.Sequential(
        nn.Conv2d(in_chans, first, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
    )
    model.maxpool = nn.Identity()
    for conv in (model.conv1[0], model.conv1[3]):  # as timm initialises the convolutions that it makes itself
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return model
