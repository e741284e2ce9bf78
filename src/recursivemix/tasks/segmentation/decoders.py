"""segmentation_models.pytorch's decoders of UPerNet and PSPNet.

They take a list of maps whose first two, of strides 1 and 2, they do not use.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn


def upernet(channels: Sequence[int], width: int) -> nn.Module:
    """Create the decoder of UPerNet (Xiao et al., arXiv 1807.10221), which uses all maps.

    Raises:
        ValueError: fewer than two maps.
    """
    if len(channels) < 2:
        raise ValueError(
            f"--head upernet needs a backbone with at least 2 feature maps, got {len(channels)}: use "
            f"--head pspnet"
        )
    decoder: nn.Module = UPerNetDecoder([0, 0, *channels], len(channels) + 1, width)
    return decoder


def pspnet(channels: Sequence[int], width: int) -> nn.Module:
    """Create the decoder of PSPNet (Zhao et al., arXiv 1612.01105), which uses the last map."""
    decoder: nn.Module = PSPDecoder([channels[-1]], out_channels=width, dropout=0.0)
    return decoder
