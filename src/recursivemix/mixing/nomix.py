"""No mixing: the baseline, behind the same call."""

from __future__ import annotations

import torch

from .batch import Inputs, Mixed, unmixed
from .draw import Draw
from .mixer import Mixer


class NoMix(Mixer):
    """Pass every batch through with ``lam`` 1."""

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        return Draw()

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return unmixed(inputs)
