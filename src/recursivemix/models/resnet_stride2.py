"""ResNet-18 for small images with a stem of stride 2: a quarter of the cost of the usual 3x3 stem."""

from __future__ import annotations

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def resnet18_stride2(width: int, num_classes: int) -> nn.Module:
    """Return a ResNet-18 (He et al., arXiv 1512.03385) with a 3x3 stem of stride 2 and no pooling after it.

    At 32x32 pixels the four stages see maps of 16, 8, 4 and 2 pixels per side.

    Args:
        width: Channels of the first stage; the next ones have 2, 4 and 8 times as many, the stem
            always 64. A width of 64 gives the usual 11 M parameters, 32 gives 2.8 M and 16 gives 0.7 M.
        num_classes: K.
    """
    network = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates an instance, and takes the class
        (2, 2, 2, 2),
        num_classes=num_classes,
        channels=(width, 2 * width, 4 * width, 8 * width),
    )
    network.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)  # type: ignore[assignment]
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network
