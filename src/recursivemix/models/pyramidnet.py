"""PyramidNet with bottleneck blocks, for small images (Han, Kim and Kim, arXiv 1610.02915)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

FIRST_WIDTH = 16
EXPANSION = 4
"""Channels that leave a bottleneck block, in channels of its 3x3 convolution."""


def pyramid_widths(alpha: int, blocks: int) -> list[int]:
    """Channels of each block's 3x3 convolution: D_k of the additive pyramid (section 3.1), k = 2 ... N + 1.

    The sum goes on unrounded, else the last block would miss the 16 + alpha channels of the paper's tables.

    Args:
        alpha: channels that all blocks together add.
        blocks: N.
    """
    # Differs from the paper, whose equation floors: the networks behind the published figures of CutMix and
    # RecursiveMix round, which makes 26.753M parameters of depth 200 and alpha 240 (floored: 26.617M).
    return [FIRST_WIDTH + (2 * alpha * k + blocks) // (2 * blocks) for k in range(1, blocks + 1)]


class PyramidBlock(nn.Module):
    """BN, 1x1, BN, ReLU, 3x3, BN, ReLU, 1x1, BN, beside a shortcut without parameters.

    Args:
        in_channels: before the block.
        width: of its 3x3 convolution; `EXPANSION` times as many leave.
        stride: of its 3x3 convolution; the shortcut averages this many pixels per side.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, 4 width, h / stride, w / stride), halves rounded up."""
        out = self.conv1(self.bn1(x))  # no ReLU: the paper found it to harm
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.bn4(self.conv3(F.relu(self.bn3(out))))
        # At an odd border the last cell averages the pixels that there are.
        shortcut = x if self.stride == 1 else F.avg_pool2d(x, self.stride, ceil_mode=True)
        total: Tensor = out + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return total


class PyramidNet(nn.Module):
    """Additive PyramidNet of bottleneck blocks (section 3, table 1): each block is wider than the last.

    Args:
        depth: 9 n + 2, such as 164, 200, 236 or 272: n blocks a stage, three convolutions a block.
        alpha: channels that all blocks together add to the first 16; the last map has 4 (16 + alpha).
        num_classes: K.

    Raises:
        ValueError: a depth that is no 9 n + 2, or a negative alpha.
    """

    image_size = (32, 32)
    """Pixels (H, W) that the network was made for; it takes others."""

    def __init__(self, depth: int, alpha: int, num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 9)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 9 n + 2, such as 164, 200, 236 or 272, got {depth}")
        if alpha < 0:
            raise ValueError(f"alpha is a number of channels to add and must not be negative, got {alpha}")
        self.conv1 = nn.Conv2d(3, FIRST_WIDTH, 3, 1, 1, bias=False)
        pyramid, channels = [], FIRST_WIDTH
        for k, width in enumerate(pyramid_widths(alpha, 3 * blocks)):
            stride = 2 if k in (blocks, 2 * blocks) else 1
            pyramid.append(PyramidBlock(channels, width, stride))
            channels = EXPANSION * width
        self.layer1 = nn.Sequential(*pyramid[:blocks])
        self.layer2 = nn.Sequential(*pyramid[blocks : 2 * blocks])
        self.layer3 = nn.Sequential(*pyramid[2 * blocks :])
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()  # a module, so that its output can be found as the last feature map
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.relu(self.bn(x))  # (B, 4 (16 + alpha), H / 4, W / 4), quarters rounded up
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
