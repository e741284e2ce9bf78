"""CutMix (Yun et al., arXiv 1905.04899): paste a box of another image of the batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .batch import Inputs, Mixed, unmixed
from .checks import beta_parameter
from .draw import Draw, beta, centred_boxes, choose, kept_share, random_partners, uniform_numbers
from .labels import fuse_partners, lam_rows
from .mixer import Mixer
from .paste import Interpolation, paste


class CutMix(Mixer):
    """Paste a box of another image; its area is ``1 - lam``, ``lam`` ~ Beta(alpha, alpha), before clipping.

    After clipping at the border, ``lam`` is the share of pixels that are left, as in the paper's code.

    Args:
        alpha: Beta parameter, above 0; 1.0 in the paper (section 3.1). The paper mixes every batch on
            ImageNet and half of them on CIFAR (``prob=0.5``, in its code).
        others: See `Mixer`.
    """

    draws = ("boxes", "partners")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        gate, *place = uniform_numbers(count, 1 + len(size), generator)
        area = choose(gate < self.prob, 1 - beta(self.alpha, count, generator), 0.0)
        partners = random_partners(batch_size, generator)
        return Draw(boxes=centred_boxes(area, place, size), partners=partners)

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return paste_partners(inputs, draw, shrunk=False, inplace=self.inplace)


def paste_partners(
    inputs: Inputs, draw: Draw, *, shrunk: bool, inplace: bool, interpolation: Interpolation = "nearest"
) -> Mixed:
    """Paste each sample's partner into its box, cut from the same place or shrunk whole."""
    if draw.boxes is None or draw.partners is None:
        return unmixed(inputs)
    images, masks = inputs.images, inputs.masks
    d = draw.boxes.shape[1] // 2
    partners = draw.partners.to(images.device, non_blocking=True)
    mix = partial(paste, boxes=draw.boxes, dims=d, shrunk=shrunk, partners=partners, inplace=inplace)
    lam = kept_share(draw.boxes, images.shape[-d:])
    mixed, _ = mix(images, images, interpolation=interpolation)
    return Mixed(
        mixed,
        fuse_partners(inputs.labels, inputs.num_classes, lam, partners),
        lam_rows(lam, images.shape[0], images.device),
        masks=None if masks is None else mix(masks, masks)[0],
    )
