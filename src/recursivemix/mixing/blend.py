"""The blend itself: each sample with its partner, by one weight or by a map of weights. Pure functions."""

from __future__ import annotations

import torch

from .boxes import cast_like
from .draw import Draw
from .mixer import Inputs, Mixed, mix_rows, unmixed


def blend_partners(inputs: Inputs, draw: Draw, *, picked: bool = False, inplace: bool) -> Mixed:
    """Blend each sample with its partner, pixels and labels, by ``draw.lam`` or by ``draw.weights``.

    Args:
        inputs: the batch.
        draw: with ``partners``, and ``lam`` or ``weights``.
        picked: the weights are 0 and 1 alone: pixels are picked and not computed, and masks too.
        inplace: write into the inputs.

    Raises:
        ValueError: masks, if pixels are not picked.
    """
    if draw.partners is None:
        return unmixed(inputs)
    images, device = inputs.images, inputs.images.device
    partners = draw.partners.to(device, non_blocking=True)
    if draw.weights is not None:
        d = draw.weights.dim() - 1
        lam = draw.weights.double().flatten(1).mean(1).float()
        weights = draw.weights.to(device, non_blocking=True)
    elif draw.lam is not None:
        d, lam = 0, draw.lam
        weights = lam.to(device, non_blocking=True)
    else:
        return unmixed(inputs)
    if inputs.masks is not None and not picked:
        raise ValueError(
            "this method blends images, and a blended mask would invent classes; use CutMix, ResizeMix or "
            "RecursiveMix for masks"
        )
    lam = lam.to(device, non_blocking=True).expand(len(images)).contiguous()
    shape = (-1, *(1,) * (images.dim() - 1 - d), *weights.shape[1:])
    targets = mix_rows(lam, inputs.targets, inputs.targets[partners])
    if picked:
        own = (weights == 1).view(shape)
        mixed = torch.where(own, images, images[partners])
        masks = inputs.masks
        if masks is not None:
            both = torch.where(weights == 1, masks, masks[partners])
            masks = masks.copy_(both) if inplace else both
        return Mixed(images.copy_(mixed) if inplace else mixed, targets, lam, masks=masks)
    # Half precision cannot hold lam exactly enough to match the label; blend in float32.
    pixels = images if images.dtype in (torch.float32, torch.float64) else images.float()
    blend = cast_like(torch.lerp(pixels[partners], pixels, weights.to(pixels.dtype).view(shape)), images)
    return Mixed(images.copy_(blend) if inplace else blend, targets, lam)
