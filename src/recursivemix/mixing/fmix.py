"""FMix (Harris et al., arXiv 2002.12047): parts of two images, their shapes cut from smooth noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .batch import Inputs, Mixed
from .blend import blend_partners
from .checks import beta_parameter, non_negative
from .draw import Draw, as_column, gated_lam, random_partners
from .mixer import Mixer


class FMix(Mixer):
    """Keep the current image where low-pass filtered noise is highest, on a share ``lam`` of the pixels.

    ``lam`` ~ Beta(alpha, alpha), then rounded to whole pixels, so that it is exactly their share.

    Args:
        alpha: Beta parameter, above 0; 1.0 in the paper (section 4).
        decay: Power by which the noise's spectrum falls with frequency, 0 or more; 3 in the paper
            (section 4). A larger value gives fewer and rounder parts.
        others: See `Mixer`.
    """

    draws = ("partners", "weights")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, decay: float = 3.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)
        self.decay = non_negative("decay", decay, "a power")

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        lam = as_column(gated_lam(self.alpha, self.prob, count, generator), torch.float64)
        field = low_pass_noise(count, size, self.decay, generator)
        partners = random_partners(batch_size, generator)
        return Draw(partners=partners, weights=highest_share(field, lam))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, picked=True, inplace=self.inplace)


def low_pass_noise(count: int, size: tuple[int, ...], decay: float, generator: torch.Generator) -> Tensor:
    """Draw (count, *size) float64: the real part of complex Gaussian noise over ``frequency ** decay``.

    The frequency 0 counts as the lowest one that the longest side holds, ``1 / max(size)``.
    """
    squares = torch.zeros((), dtype=torch.float64, device="cpu")
    for i, length in enumerate(size):
        frequencies = torch.fft.fftfreq(length, dtype=torch.float64, device="cpu").square()
        squares = squares + frequencies.view(*(length if j == i else 1 for j in range(len(size))))
    scale = squares.sqrt().clamp(min=1 / max(size)) ** decay
    parts = torch.randn(2, count, *size, generator=generator, dtype=torch.float64, device="cpu")
    spectrum = torch.complex(parts[0], parts[1]) / scale
    field: Tensor = torch.fft.ifftn(spectrum, dim=tuple(range(1, 1 + len(size)))).real
    return field


def highest_share(field: Tensor, share: Tensor) -> Tensor:
    """Return (N, ...) float32: 1 at the highest ``round(share * pixels)`` values of each field, else 0."""
    flat = field.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    count = (share * flat.shape[1]).round().long()
    first = (torch.arange(flat.shape[1], device=flat.device) < count[:, None]).float()
    return torch.zeros_like(flat, dtype=torch.float32).scatter_(1, order, first).view(field.shape)
