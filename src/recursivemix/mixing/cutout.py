"""Cutout (DeVries & Taylor, arXiv 1708.04552): a square of each image is blanked; its label stays."""

from __future__ import annotations

from typing import Any

import torch

from .boxes import inside
from .draw import Draw, centred_boxes, uniform
from .mixer import Inputs, Mixed, Mixer, in_range, unmixed


class Cutout(Mixer):
    """A box with ``size`` of each side, uniform centre, is set to 0, the mean of normalised images.

    The box is clipped at the border (section 3.2). Nothing is mixed: ``lam`` stays 1. Masks stay as they
    are. Unlike the other methods each image gets a box of its own, as in the paper, also without
    ``per_sample``.

    Args:
        size: share of each image side, in (0, 1]. 0.5 and 0.25 are the paper's 16 and 8 pixels of 32 for
            CIFAR-10 and CIFAR-100 (section 4).
        others: see `Mixer`.
    """

    draws = ("boxes",)

    def __init__(self, num_classes: int, *, size: float = 0.5, **others: Any) -> None:
        super().__init__(num_classes, **others)
        if not 0 < size <= 1:
            raise ValueError(f"size is the share of the image side and must be in (0, 1], got {size}")
        self.size = in_range("size", size, 0, 1)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        u = uniform(batch_size, 1 + len(size), generator)
        gate = u[:, 0] if self.per_sample else u[:1, 0].expand(batch_size)
        # A hair more, since the root of the power may fall short: 0.1 of 20 pixels is 2 and not 1.
        area = (gate < self.prob).double() * (self.size ** len(size) * (1 + 1e-12))
        return Draw(boxes=centred_boxes(area, u[:, 1:], size))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        result = unmixed(inputs)
        if draw.boxes is None:
            return result
        images, d = inputs.images, draw.boxes.shape[1] // 2
        blank = inside(draw.boxes.to(images.device, non_blocking=True), images.shape[-d:])
        blank = blank.view(len(blank), *(1,) * (images.dim() - 1 - d), *images.shape[-d:])
        images = images if self.inplace else images.clone()  # keeps channels_last
        return result._replace(images=images.masked_fill_(blank, 0))
