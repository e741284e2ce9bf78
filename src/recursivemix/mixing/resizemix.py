"""ResizeMix (Qin et al., arXiv 2012.11101): paste another image of the batch, shrunk whole."""

from __future__ import annotations

from typing import Any

import torch

from .batch import Inputs, Mixed
from .checks import in_range, known_interpolation
from .cutmix import paste_partners
from .draw import Draw, choose, inner_boxes, random_partners, uniform_numbers
from .mixer import Mixer
from .paste import Interpolation


class ResizeMix(Mixer):
    """Paste another image, shrunk: both sides are a share ~ U(min_scale, max_scale) of the image's.

    The patch lies whole inside the image, at a uniform place; ``lam`` is the share of pixels that are left.

    Args:
        min_scale, max_scale: Bounds of the share of each side, in [0, 1]; the paper's 0.1 and 0.8.
        interpolation: How the patch is shrunk: "nearest", "bilinear" or "area".
        others: See `Mixer`.
    """

    draws = ("boxes", "partners")

    def __init__(
        self,
        num_classes: int,
        *,
        min_scale: float = 0.1,
        max_scale: float = 0.8,
        interpolation: Interpolation = "bilinear",
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.max_scale = in_range("max_scale", max_scale, 0, 1)
        self.min_scale = in_range("min_scale", min_scale, 0, max_scale)
        self.interpolation = known_interpolation(interpolation)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        gate, u, *place = uniform_numbers(count, 2 + len(size), generator)
        scale = choose(gate < self.prob, self.min_scale + (self.max_scale - self.min_scale) * u, 0.0)
        partners = random_partners(batch_size, generator)
        return Draw(boxes=inner_boxes(scale, place, size), partners=partners)

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return paste_partners(
            inputs, draw, shrunk=True, inplace=self.inplace, interpolation=self.interpolation
        )
