"""GridMix (Baek, Bang & Shim, Pattern Recognition 109, 2021): cells of a grid from two images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .blend import blend_partners
from .draw import Draw, beta, uniform
from .mixer import Inputs, Mixed, Mixer, beta_parameter


class GridMix(Mixer):
    """Each cell of a grid shows the current image with probability ``p`` ~ Beta(alpha, alpha).

    The others show the partner. ``lam`` is the share of pixels that are the current image's. The paper's
    second loss, which classifies every cell by itself, is not part of this: it needs a head of its own.

    Args:
        alpha: Beta parameter, above 0.
        grid: cells along each side, at least 1; a side that it does not divide has cells of two lengths.
        others: see `Mixer`.
    """

    draws = ("partners", "weights")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, grid: int = 4, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)
        if not isinstance(grid, int) or grid < 1:
            raise ValueError(
                f"grid is the number of cells along each side, a whole number of at least 1, got {grid}"
            )
        self.grid = grid

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        cells = self.grid ** len(size)
        u = uniform(count, 1 + cells, generator)
        own = torch.where(u[:, 0] < self.prob, beta(self.alpha, count, generator), 1.0)
        kept = (u[:, 1:] < own[:, None]).view(count, *(self.grid,) * len(size))
        partners = torch.randperm(batch_size, generator=generator)
        return Draw(partners=partners, weights=over_pixels(kept.float(), size))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, picked=True, inplace=self.inplace)


def over_pixels(cells: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, *size): every pixel's cell of (N, g, ..., g); pixel i of S lies in cell ``floor(i g / S)``."""
    pixels = cells
    for i, length in enumerate(size):
        pixels = pixels.index_select(1 + i, torch.arange(length) * cells.shape[1] // length)
    return pixels
