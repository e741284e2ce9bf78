"""The object made small, on a ground that does not help: another test image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Of the image's side."""


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) uint8 images at ``size``, antialiased, as bytes."""
    if images.shape[-2:] == size:
        return images
    small = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def on_other_ground(images: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """Each of (N, 3, H, W) uint8 images shrunk and put anywhere on another one of them.

    The ground is the image half the set away, mostly of another class, which competes with the object: the
    smaller the object, the more the ground is what there is to see. The label stays the object's.

    Args:
        images: on the CPU, at least two unless ``side`` is 1.
        side: of the shrunken image, as a share of the side, in (0, 1].
        generator: of the places.
    """
    if not 0 < side <= 1:
        raise ValueError(f"a side must be in (0, 1], got {side}")
    count, _, height, width = images.shape
    h, w = max(1, round(side * height)), max(1, round(side * width))
    small = shrunk(images, (h, w))
    result = images.roll(max(1, count // 2), 0)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    tops = (place[:, 0] * (height - h + 1)).long().tolist()
    lefts = (place[:, 1] * (width - w + 1)).long().tolist()
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        result[i, :, top : top + h, left : left + w] = small[i]
    return result
