"""The values of a mixing step: a method's inputs, its result, and the batch that a training loop reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .draw import Draw
from .labels import soft_labels


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """One mixed batch.

    Unpacks as ``images, targets``, so that it fits loops written for timm's ``Mixup`` or torchvision's
    ``CutMix``.
    """

    images: Tensor
    """(B, C, ..., H, W), with the dtype, device and memory format of the input."""
    targets: Tensor
    """(B, K) float32: the fused labels."""
    lam: Tensor
    """(B,) float32 in [0, 1]: weight of the current image and label; 1 where nothing was mixed."""
    labels: Tensor
    """The labels that were given, for metrics that need them."""
    draw: Draw
    """Every random decision; ``mixer(..., draw=batch.draw)`` replays the batch as long as the mixer holds
    the same history."""
    boxes: Tensor | None = None
    """(B, 4) int64 ``(x1, y1, x2, y2)`` pixels, end-exclusive (2 d columns for d mixed dimensions): where
    the history was pasted; the whole image where nothing was. None for a method without a region head."""
    history_probs: Tensor | None = None
    """(B, K) float32: the main head's prediction for the pasted image one step ago; without effect where
    ``lam`` is 1. None for a method without consistency."""
    masks: Tensor | None = None
    """(B, H, W) integer masks under the same draw, if masks were given."""

    def __iter__(self) -> Iterator[Tensor]:
        yield self.images
        yield self.targets


@dataclass(frozen=True, eq=False)
class Inputs:
    """A validated batch, as a method's ``apply`` gets it."""

    images: Tensor
    """(B, C, ..., S1, ..., Sd): the mixed dimensions moved last, a view of the caller's images."""
    labels: Tensor
    """(B,) class indices or (B, K) soft labels, as they were given."""
    num_classes: int
    masks: Tensor | None = None
    """(B, S1, ..., Sd) integers."""
    indices: Tensor | None = None
    """(B,) int64 on the CPU: the position of each sample in the data set."""

    def targets(self) -> Tensor:
        """Compute the batch's own labels as (B, K) float32."""
        return soft_labels(self.labels, self.num_classes)


class Mixed(NamedTuple):
    """What a method's ``apply`` returns; images and masks are laid out as in `Inputs`."""

    images: Tensor
    targets: Tensor
    lam: Tensor
    boxes: Tensor | None = None
    history_probs: Tensor | None = None
    masks: Tensor | None = None
    labels: Tensor | None = None
    """The labels of the samples in the batch, in the form they were given; None if they are unchanged."""


def unmixed(inputs: Inputs) -> Mixed:
    """Return the batch unchanged, with ``lam`` 1."""
    lam = torch.ones(inputs.images.shape[0], dtype=torch.float32, device=inputs.images.device)
    return Mixed(inputs.images, inputs.targets(), lam, masks=inputs.masks)
