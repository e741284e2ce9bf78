"""SmoothMix (Lee et al., CVPR Workshops 2020): a patch of another image with soft edges."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .batch import Inputs, Mixed
from .blend import blend_partners
from .checks import is_number
from .draw import Draw, random_partners, uniform
from .mixer import Mixer


class SmoothMix(Mixer):
    """Blend in another image by a Gaussian at a uniform place: weight 1 at its centre, falling to 0.

    The standard deviation is uniform in ``sigma`` times each image side. ``lam`` is the mean weight of the
    current image. This is the round one of the paper's two masks.

    Args:
        sigma: Least and largest standard deviation, as a share of the image side; 0.25 and 0.5 in the
            paper.
        others: See `Mixer`.
    """

    draws = ("partners", "weights")
    blends = True

    def __init__(
        self, num_classes: int, *, sigma: tuple[float, float] = (0.25, 0.5), **others: Any
    ) -> None:
        super().__init__(num_classes, **others)
        pair = isinstance(sigma, tuple | list) and len(sigma) == 2 and all(map(is_number, sigma))
        if not pair or not 0 < sigma[0] <= sigma[1] < math.inf:
            raise ValueError(
                f"sigma is the least and the largest share of the image side, above 0 and in this order, "
                f"as in (0.25, 0.5), got {sigma}"
            )
        low, high = sigma
        self.sigma = (float(low), float(high))

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        u = uniform(count, 2 + len(size), generator)
        low, high = self.sigma
        other = gaussian(low + (high - low) * u[:, 1], u[:, 2:], size)
        chosen = (u[:, 0] < self.prob).view(-1, *(1,) * len(size))
        partners = random_partners(batch_size, generator)
        return Draw(partners=partners, weights=torch.where(chosen, 1 - other, 1.0).float())

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, inplace=self.inplace)


def gaussian(sigma: Tensor, place: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (N, *size) float64 in (0, 1]: ``exp(-r^2 / 2)``, r the distance in standard deviations.

    Args:
        sigma: (N,) standard deviation, a share of each side.
        place: (N, d) in [0, 1): the pixel at the centre, as a share of each side.
        size: Of the image.
    """
    squares = torch.zeros((), dtype=torch.float64, device="cpu")
    for i, length in enumerate(size):
        centre = (place[:, i, None] * length).floor()
        at = torch.arange(length, device=place.device)
        distance = ((at - centre) / (sigma[:, None] * length)).square()  # (N, length)
        squares = squares + distance.view(-1, *(length if j == i else 1 for j in range(len(size))))
    return torch.exp(-squares / 2)
