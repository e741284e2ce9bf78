"""MixUp (Zhang et al., arXiv 1710.09412): blend two images of the batch and their labels."""

from __future__ import annotations

from typing import Any

import torch

from .boxes import cast_like
from .draw import Draw, beta, uniform
from .mixer import Inputs, Mixed, Mixer, beta_parameter, mix_rows, unmixed


class MixUp(Mixer):
    """``lam`` ~ Beta(alpha, alpha); image and label are ``lam * own + (1 - lam) * partner's``.

    Args:
        alpha: Beta parameter, above 0. The paper: 1.0 on CIFAR (section 3.2), 0.2 to 0.4 on ImageNet
            (section 3.1).
        others: see `Mixer`.
    """

    draws = ("lam", "partners")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        chosen = uniform(count, 1, generator)[:, 0] < self.prob
        lam = torch.where(chosen, beta(self.alpha, count, generator), 1.0).float()
        return Draw(lam=lam, partners=torch.randperm(batch_size, generator=generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return blend_partners(inputs, draw, inplace=self.inplace)


def blend_partners(inputs: Inputs, draw: Draw, *, inplace: bool) -> Mixed:
    """Blend each sample with its partner, pixels and labels."""
    if draw.lam is None or draw.partners is None:
        return unmixed(inputs)
    if inputs.masks is not None:
        raise ValueError(
            "MixUp blends images and a blended mask would invent classes; use CutMix, ResizeMix or "
            "RecursiveMix for masks"
        )
    images, device = inputs.images, inputs.images.device
    lam = draw.lam.to(device, non_blocking=True).expand(len(images)).contiguous()
    partners = draw.partners.to(device, non_blocking=True)
    # Half precision cannot hold lam exactly enough to match the label; blend in float32.
    pixels = images if images.dtype in (torch.float32, torch.float64) else images.float()
    weight = lam.to(pixels.dtype).view(-1, *(1,) * (images.dim() - 1))
    blend = cast_like(torch.lerp(pixels[partners], pixels, weight), images)
    targets = mix_rows(lam, inputs.targets, inputs.targets[partners])
    return Mixed(images.copy_(blend) if inplace else blend, targets, lam)
