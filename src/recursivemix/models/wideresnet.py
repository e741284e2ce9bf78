"""Wide residual networks for small images (Zagoruyko and Komodakis, arXiv 1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """Twice BN, ReLU and a 3x3 convolution, dropout between the two, beside a shortcut (section 2).

    Args:
        in_channels, channels: before and after.
        stride: of the first convolution and of the shortcut.
        dropout: probability that a value between the convolutions is dropped.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.projection = (
            None
            if in_channels == channels and stride == 1
            else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C, h / stride, w / stride), halves rounded up."""
        active = F.relu(self.bn1(x))
        # Where the shape changes, both ways start from the activation (He et al., arXiv 1603.05027).
        shortcut = x if self.projection is None else self.projection(active)
        out = self.dropout(F.relu(self.bn2(self.conv1(active))))
        total: Tensor = self.conv2(out) + shortcut
        return total


class WideResNet(nn.Module):
    """WRN-depth-widening (section 2, table 1): three stages of 16, 32 and 64 times ``widening`` channels.

    Args:
        depth: 6 n + 4, such as 16, 22, 28 or 40: n blocks a stage.
        widening: k; 1 is a thin pre-activation ResNet.
        num_classes: K.
        dropout: probability inside each block; the paper's runs with dropout have 0.3 on CIFAR.

    Raises:
        ValueError: a depth that is no 6 n + 4, a widening below 1, a dropout outside [0, 1].
    """

    image_size = (32, 32)
    """Pixels (H, W) that the network was made for; it takes others."""

    def __init__(self, depth: int, widening: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 4, such as 16, 22, 28 or 40, got {depth}")
        if widening < 1:
            raise ValueError(f"widening multiplies the channels and must be at least 1, got {widening}")
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        stages = []
        for in_channels, channels, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True):
            first = WideBlock(in_channels, channels, stride, dropout)
            others = (WideBlock(channels, channels, 1, dropout) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *others))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()  # a module, so that its output can be found as the last feature map
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.relu(self.bn(x))  # (B, 64 widening, H / 4, W / 4), quarters rounded up
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
