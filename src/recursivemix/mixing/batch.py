"""The value that travels through the flow: what a mixer returns and every later stage reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .draw import Draw


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """One mixed batch.

    Unpacks as ``images, targets`` so that it fits loops written for timm's ``Mixup`` or
    torchvision's ``CutMix``.
    """

    images: Tensor
    """(B, C, ..., H, W), dtype, device and memory format of the input."""
    targets: Tensor
    """(B, K) float32: the fused labels."""
    lam: Tensor
    """(B,) float32 in [0, 1]: weight of the current image and label; 1 where nothing was mixed."""
    labels: Tensor
    """The labels as they came in, for metrics that want them."""
    draw: Draw
    """Every random decision; ``mixer(..., draw=batch.draw)`` replays the batch, as long as the mixer holds
    the same history."""
    boxes: Tensor | None = None
    """(B, 4) int64 ``(x1, y1, x2, y2)`` pixels, end-exclusive (2 d columns for d mixed dimensions):
    where the history was pasted; the whole image where nothing was. None for a method that trains no
    region head."""
    history_probs: Tensor | None = None
    """(B, K) float32: what the main head said of the pasted image one step ago; of no weight where
    ``lam`` is 1. None for a method without consistency."""
    masks: Tensor | None = None
    """(B, H, W) integer masks under the same draw, where masks were given."""

    def __iter__(self) -> Iterator[Tensor]:
        yield self.images
        yield self.targets
