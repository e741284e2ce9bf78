"""MixUp (Zhang et al., arXiv 1710.09412): blend two images of the batch and their labels."""

from __future__ import annotations

from typing import Any

import torch

from .batch import Inputs, Mixed
from .blend import blend_partners
from .checks import beta_parameter
from .draw import Draw, as_column, gated_lam, random_partners
from .mixer import Mixer


class MixUp(Mixer):
    """Blend by ``lam`` ~ Beta(alpha, alpha): image and label are ``lam * current + (1 - lam) * partner``.

    Args:
        alpha: Beta parameter, above 0. The paper: 1.0 on CIFAR (section 3.2), 0.2 to 0.4 on ImageNet
            (section 3.1).
        others: See `Mixer`.
    """

    draws = ("lam", "partners")
    blends = True

    def __init__(self, num_classes: int, *, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        lam = as_column(gated_lam(self.alpha, self.prob, count, generator))
        return Draw(lam=lam, partners=random_partners(batch_size, generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, inplace=self.inplace)
