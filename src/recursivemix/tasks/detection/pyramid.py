"""Feature pyramid network on a backbone, with the levels that detectors need."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
)

from recursivemix.tasks.backbone import LoadedBackbone

LEVELS = 5
"""Levels of every pyramid, as in the papers: strides 8 to 128, or 4 to 64 for Mask R-CNN."""


class ConvolutionLevels(ExtraFPNBlock):  # type: ignore[misc]  # torchvision has no types
    """Coarser levels, each by a convolution of stride 2 on the level before.

    With two levels this is torchvision's LastLevelP6P7, which cannot make the three levels that a backbone
    with two feature maps needs.

    Args:
        channels: channels of every level.
        count: number of levels.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(count))
        for module in self.convolutions:
            assert isinstance(module, nn.Conv2d)
            assert module.bias is not None
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Return the pyramid's levels and names with the new ones appended."""
        results, names = list(results), list(names)
        for i, convolution in enumerate(self.convolutions):
            last = results[-1]
            results.append(convolution(last if i == 0 else last.relu()))
            names.append(f"p{len(results)}")
        return results, names


class Pyramid(nn.Module):
    """A backbone with torchvision's feature pyramid, five levels whose strides double.

    Args:
        loaded: the backbone.
        channels: channels of every level; 256 in the papers.
        maps: number of feature maps of the backbone to use, counted from the coarsest.
        pooled: add one coarser level by pooling, as Mask R-CNN does; otherwise add levels by convolutions.
    """

    def __init__(
        self, loaded: LoadedBackbone, channels: int, *, maps: int = 3, pooled: bool = False
    ) -> None:
        super().__init__()
        self.body = loaded.backbone
        self.maps = min(maps, len(self.body.channels))
        strides = self.body.strides[-self.maps :]
        count = 1 if pooled else LEVELS - self.maps
        extra = LastLevelMaxPool() if pooled else ConvolutionLevels(channels, count)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels[-self.maps :]), channels, extra)
        self.out_channels = channels
        self.strides: tuple[int, ...] = (*strides, *(strides[-1] * 2**i for i in range(1, count + 1)))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the levels by name, (B, ``out_channels``, h, w) each, from (B, 3, H, W) images.

        Levels are float32, because half precision is too coarse for pixel coordinates.
        """
        maps = self.body(images)[-self.maps :]
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        return OrderedDict((name, level.float()) for name, level in levels.items())
