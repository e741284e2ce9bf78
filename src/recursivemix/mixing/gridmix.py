"""GridMix (Baek, Bang & Shim, Pattern Recognition 109, 2021): cells of a grid from two images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .batch import Inputs, Mixed
from .blend import blend_partners
from .checks import beta_parameter, whole_number
from .draw import Draw, as_column, beta, choose, random_partners, uniform
from .mixer import Mixer


class GridMix(Mixer):
    """Show the current image in each cell of a grid with probability ``p`` ~ Beta(alpha, alpha).

    The others show another image. ``lam`` is the share of pixels that show the current image. The paper's
    second loss, which classifies every cell separately, is not included: it needs a head of its own.

    Args:
        alpha: Beta parameter, above 0.
        grid: Cells along each side, at least 1; a side that it does not divide has cells of two lengths.
        others: See `Mixer`.
    """

    draws = ("partners", "weights")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, grid: int = 4, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)
        self.grid = whole_number("grid", grid, 1)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        u = uniform(count, 1 + self.grid ** len(size), generator)
        share = choose(
            u[:, 0] < self.prob, as_column(beta(self.alpha, count, generator), torch.float64), 1.0
        )
        kept = (u[:, 1:] < as_column(share, torch.float64)[:, None]).view(count, *(self.grid,) * len(size))
        partners = random_partners(batch_size, generator)
        return Draw(partners=partners, weights=over_pixels(kept.float(), size))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, picked=True, inplace=self.inplace)


def over_pixels(cells: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (N, *size), every pixel's cell of (N, g, ..., g); pixel i of S is in ``floor(i g / S)``."""
    pixels = cells
    for i, length in enumerate(size):
        at = torch.arange(length, device=cells.device)
        pixels = pixels.index_select(1 + i, at * cells.shape[1] // length)
    return pixels
