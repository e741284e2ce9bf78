"""Does the class activation of each of the four images in a picture point at its quarter?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pointing(NamedTuple):
    """What one map a row says of its box."""

    peak_inside: Tensor
    """(N,) bool: the map's highest cell lies in the box."""
    energy_inside: Tensor
    """(N,) share of the map's sum that lies in the box; 0 for a map that is 0 everywhere."""


def pointing(maps: Tensor, boxes: Tensor) -> Pointing:
    """Compare maps with boxes.

    Args:
        maps: (N, H, W), 0 or more.
        boxes: (N, 4) ``(x1, y1, x2, y2)`` pixels.

    A map without a single peak (flat, or several equal ones) counts by the share of its peaks that lie
    inside, at one half or more, so that a flat map does not point anywhere by luck of the order.
    """
    height, width = maps.shape[-2:]
    rows, columns = torch.arange(height), torch.arange(width)
    x1, y1, x2, y2 = (boxes[:, i, None] for i in range(4))
    inside = ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None]
    peak = maps == maps.amax((1, 2), keepdim=True)
    share = (peak & inside).sum((1, 2)) / peak.sum((1, 2))
    total = maps.sum((1, 2))
    energy = (maps * inside).sum((1, 2)) / total.clamp(min=torch.finfo(maps.dtype).tiny)
    return Pointing(share >= 0.5, energy)
