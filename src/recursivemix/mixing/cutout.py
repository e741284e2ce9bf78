"""Cutout (DeVries & Taylor, arXiv 1708.04552): blank a square of each image; its label stays."""

from __future__ import annotations

from typing import Any

import torch

from .batch import Inputs, Mixed, unmixed
from .checks import share
from .draw import Draw, centred_boxes, choose, uniform_numbers
from .mixer import Mixer
from .paste import inside


class Cutout(Mixer):
    """Set a box with ``size`` of each side, uniform centre, to 0, the mean of normalized images.

    The box is clipped at the border (section 3.2). Nothing is mixed: ``lam`` stays 1, and masks are
    unchanged. Unlike in the other methods each image gets its own box, as in the paper, even without
    ``per_sample``, which here applies to ``prob`` alone.

    Args:
        size: Share of each image side, in (0, 1]. 0.5 and 0.25 are the paper's 16 and 8 pixels of 32 for
            CIFAR-10 and CIFAR-100 (section 4).
        others: See `Mixer`.
    """

    draws = ("boxes",)

    def __init__(self, num_classes: int, *, size: float = 0.5, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.size = share("size", size, "the image's side")

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        gates, *place = uniform_numbers(batch_size, 1 + len(size), generator)
        # A tiny bit more, since the root of the power may fall short: 0.1 of 20 pixels is 2 and not 1.
        area = self.size ** len(size) * (1 + 1e-12)
        if isinstance(gates, float):
            return Draw(boxes=centred_boxes(choose(gates < self.prob, area, 0.0), place, size))
        gates = gates if self.per_sample else gates[:1].expand(batch_size)
        return Draw(boxes=centred_boxes((gates < self.prob).double() * area, place, size))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        result = unmixed(inputs)
        if draw.boxes is None:
            return result
        images, d = inputs.images, draw.boxes.shape[1] // 2
        blank = inside(draw.boxes.to(images.device, non_blocking=True), images.shape[-d:])
        blank = blank.view(len(blank), *(1,) * (images.dim() - 1 - d), *images.shape[-d:])
        images = images if self.inplace else images.clone()  # keeps channels_last
        return result._replace(images=images.masked_fill_(blank, 0))
