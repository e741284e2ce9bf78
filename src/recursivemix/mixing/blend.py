"""Blend each sample with its partner, by one weight or by a map of weights. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Inputs, Mixed, unmixed
from .draw import Draw, Number, as_number
from .labels import fuse_partners, lam_rows
from .paste import cast_like, in_format_of, take_samples


def blend_partners(inputs: Inputs, draw: Draw, *, picked: bool = False, inplace: bool) -> Mixed:
    """Blend each sample with its partner, pixels and labels, by ``draw.lam`` or by ``draw.weights``.

    Args:
        inputs: The batch.
        draw: With ``partners``, and ``lam`` or ``weights``.
        picked: The weights are 0 and 1 alone: pixels are picked and not computed, and masks too.
        inplace: Write into the inputs.

    Raises:
        ValueError: Masks, if pixels are not picked.
    """
    if draw.partners is None or (draw.lam is None and draw.weights is None):
        return unmixed(inputs)
    if inputs.masks is not None and not picked:
        raise ValueError(
            "this method blends images, and a blended mask would invent classes; use CutMix, ResizeMix or "
            "RecursiveMix for masks"
        )
    images, masks = inputs.images, inputs.masks
    partners = draw.partners.to(images.device, non_blocking=True)
    lam, weight = _weights(draw, images)
    if picked and isinstance(weight, Tensor):
        images = _pick(images, weight == 1, partners, inplace)
        if masks is not None:
            masks = _pick(masks, weight.view(-1, *masks.shape[1:]) == 1, partners, inplace)
    else:
        images = _blend(images, weight, partners, inplace)
    targets = fuse_partners(inputs.labels, inputs.num_classes, lam, partners)
    return Mixed(images, targets, lam_rows(lam, images.shape[0], images.device), masks=masks)


def _weights(draw: Draw, images: Tensor) -> tuple[Number, Number]:
    """Return the weight of the labels, and that of the pixels in a shape that broadcasts to the images."""
    device = images.device
    if draw.weights is not None:
        lam: Number = as_number(draw.weights.double().flatten(1).mean(1).float())
        between = images.dim() - draw.weights.dim()
        shape = (-1, *(1,) * between, *draw.weights.shape[1:])
        weight: Number = draw.weights.to(device, non_blocking=True).view(shape)
        return lam, weight
    assert draw.lam is not None  # checked by the caller
    lam = as_number(draw.lam)
    if isinstance(lam, float):
        return lam, lam
    return lam, lam.to(device, non_blocking=True).view(-1, *(1,) * (images.dim() - 1))


def _pick(values: Tensor, chosen: Tensor, partners: Tensor, inplace: bool) -> Tensor:
    """Take the pixels of the current image where chosen, else the partner's."""
    mixed = torch.where(chosen, values, take_samples(values, partners))
    return values.copy_(mixed) if inplace else in_format_of(values, mixed)


def _blend(images: Tensor, weight: Number, partners: Tensor, inplace: bool) -> Tensor:
    # Half precision cannot hold lam exactly enough to match the label; blend in float32.
    exact = images.dtype in (torch.float32, torch.float64)
    pixels = images if exact else images.float()
    weight = weight.to(pixels.dtype) if isinstance(weight, Tensor) else weight
    other = take_samples(pixels, partners)
    if inplace and exact:
        return images.lerp_(other, 1 - weight)
    # Into the copy of the partners, unless a gradient needs them.
    out = None if pixels.requires_grad and torch.is_grad_enabled() else other
    mixed = cast_like(torch.lerp(pixels, other, 1 - weight, out=out), images)
    return images.copy_(mixed) if inplace else in_format_of(images, mixed)
