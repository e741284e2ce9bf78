"""CutMix (Yun et al., arXiv 1905.04899): paste a box of another image of the batch."""

from __future__ import annotations

from typing import Any

import torch

from .boxes import Interpolation, paste
from .draw import Draw, beta, box_shares, centred_boxes, uniform
from .mixer import Inputs, Mixed, Mixer, beta_parameter, mix_rows, unmixed


class CutMix(Mixer):
    """The box's area is ``1 - lam``, ``lam`` ~ Beta(alpha, alpha), before clipping at the border.

    After clipping ``lam`` is the share of pixels that are left, as in the paper's code.

    Args:
        alpha: Beta parameter, above 0; 1.0 in the paper (section 3.1). The paper mixes every batch on
            ImageNet and half of them on CIFAR (``prob=0.5``, in its code).
        others: see `Mixer`.
    """

    draws = ("boxes", "partners")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        u = uniform(count, 1 + len(size), generator)
        area = torch.where(u[:, 0] < self.prob, 1 - beta(self.alpha, count, generator), 0.0)
        boxes = centred_boxes(area, u[:, 1:], size)
        return Draw(boxes=boxes, partners=torch.randperm(batch_size, generator=generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        return paste_partners(inputs, draw, shrunk=False, inplace=self.inplace)


def paste_partners(
    inputs: Inputs,
    draw: Draw,
    *,
    shrunk: bool,
    inplace: bool,
    interpolation: Interpolation = "nearest",
) -> Mixed:
    """Paste each sample's partner into its box, cut from the same place or shrunk whole."""
    if draw.boxes is None or draw.partners is None:
        return unmixed(inputs)
    images, boxes, device = inputs.images, draw.boxes, inputs.images.device
    dims = boxes.shape[1] // 2
    lam = (1 - box_shares(boxes, images.shape[-dims:])).float().to(device, non_blocking=True)
    lam = lam.expand(len(images)).contiguous()
    partners = draw.partners.to(device, non_blocking=True)

    def mix(pixels: torch.Tensor, mode: Interpolation) -> torch.Tensor:
        return paste(
            pixels,
            pixels,
            boxes,
            dims=dims,
            shrunk=shrunk,
            interpolation=mode,
            partners=partners,
            inplace=inplace,
        )

    return Mixed(
        mix(images, interpolation),
        mix_rows(lam, inputs.targets, inputs.targets[partners]),
        lam,
        masks=None if inputs.masks is None else mix(inputs.masks, "nearest"),
    )
